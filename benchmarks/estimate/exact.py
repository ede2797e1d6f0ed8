"""What exact tokens cost. Run: `python -m benchmarks.estimate.exact [--tokenizer DIR]`.

For conversations of several sizes, in µs: reading (JSON, template, looking up what is known), the whole of it when
nothing is known, and one more turn of 200 bytes when the rest is; both with the chain keys of 16-token blocks.
"""

from __future__ import annotations

import json
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from llmgate.core.types import Kind
from llmgate.tokens import Chain, TokenCounter, load_tokenizer, prepare_prompt
from llmgate.wire.token_keys import block_keys, token_seed

SIZES = ((2, 1), (4, 8), (10, 32), (40, 32), (40, 128), (200, 128))  # messages, KB


def best(call: Callable[[int], object], rounds: int = 20) -> float:
    """µs of the quickest round; each is told its number."""
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - started)
    return min(times) * 1e6


def conversation(messages: int, kb: int, salt: str) -> list[dict[str, str]]:
    text = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text("utf-8") * 2
    size = kb * 1024 // messages
    return [
        {"role": ("user", "assistant")[turn % 2], "content": salt + text[turn * 512 : turn * 512 + size]}
        for turn in range(messages)
    ]


def row(counter: TokenCounter, messages: int, kb: int) -> list[float]:
    chain = Chain(block_keys, 16, token_seed("m"))

    def raw(round_: int, name: str, more: int = 0) -> bytes:
        turns = conversation(messages, kb, f"{name} {messages} {kb} {round_}")
        added = [{"role": "user", "content": f"{number} " + "and now? " * 22} for number in range(more)]
        return json.dumps([*turns, *added]).encode()

    def prepare(body: bytes) -> Any:
        return prepare_prompt(counter, Kind.CHAT, {"messages": msgspec.json.decode(body)}, chain)

    fresh = [raw(number, "fresh") for number in range(20)]
    whole = best(lambda number: prepare(fresh[number]).finish())
    reading = best(lambda number: prepare(fresh[number]))
    grown = [raw(0, "grown", turn + 1) for turn in range(21)]
    prepare(grown[0]).finish()
    turn = best(lambda number: prepare(grown[number + 1]).finish())
    return [reading, whole, turn]


@click.command(help=__doc__)
@click.option("--tokenizer", default="embedded", show_default=True, help="Directory, tokenizer.json or 'embedded'.")
def main(tokenizer: str) -> None:
    started = time.perf_counter()
    counter = load_tokenizer(tokenizer)
    click.echo(f"{counter.library}, loaded in {time.perf_counter() - started:.1f} s, paced at", nl=False)
    click.echo(
        f" {counter.seconds_per_byte * 1024e6:.0f} µs a KB: {200e-6 / counter.seconds_per_byte:.0f} bytes in 200 µs"
    )
    click.echo(f"{'messages':>9}{'KB':>5}{'reading':>9}{'whole':>9}{'one turn more':>15}")
    for messages, kb in SIZES:
        reading, whole, turn = row(counter, messages, kb)
        click.echo(f"{messages:9}{kb:5}{reading:9.0f}{whole:9.0f}{turn:15.0f}")
    memory = counter.memory
    click.echo(f"remembered: {len(memory)} messages in {memory.bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
