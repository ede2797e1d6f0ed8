"""What it costs to know the engines' KV caches: `python -m benchmarks.kv_events`.

- memory of a full index, engine hashes and own keys together, by resident size;
- a look-up of a prompt of 512 blocks (32 KB of text in blocks of 16 tokens) in it, with and without a hole;
- what each block stored costs the event loop, from the bytes of a message to the index, and each block removed.

Times are medians of several runs, in CPU time, so that other work on the machine counts only by what it does to caches.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import click
import msgspec

from llmgate.core.blocks import BlockIndex
from llmgate.core.health import Health
from llmgate.core.pool import EndpointPool
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec, InferenceRequest, Kind
from llmgate.probes.kv_stream import KvStream
from llmgate.routing import registry
from llmgate.wire.kv_events import Message
from llmgate.wire.token_keys import block_keys, token_seed

SIZE = 16  # tokens of a block: vLLM's default on GPUs
PROMPT = 512  # blocks
SHARED = 64  # blocks that all prompts begin with
STEP = 128  # blocks of a message: a prefill of 2,048 tokens

pack = msgspec.msgpack.Encoder().encode


def resident() -> float:
    """MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def prompt(random: Random, shared: list[int]) -> list[int]:
    return shared + [random.randrange(128_000) for _ in range((PROMPT - SHARED) * SIZE)]


def messages(random: Random, ids: list[int], first: int) -> Iterator[tuple[bytes, list[int]]]:
    """What an engine tells while it computes a prompt, and the hashes in it. The shared beginning is there already."""
    parent: int | None = None
    for start in range(0, PROMPT, STEP):
        hashes = [random.getrandbits(64) for _ in range(STEP)]
        event = {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": parent,
            "token_ids": ids[start * SIZE : (start + STEP) * SIZE],
            "block_size": SIZE,
            "medium": "GPU",
            "extra_keys": [None] * STEP,
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }
        yield pack([float(first), [event], 0]), hashes
        parent = hashes[-1]


def removals(hashes: list[int]) -> bytes:
    """As vLLM tells of them: an event a block."""
    return pack([1e9, [{"type": "BlockRemoved", "block_hashes": [h], "medium": "GPU", "group_idx": 0} for h in hashes]])


def timed(work: Callable[[], object], calls: int) -> float:
    """µs a call."""
    began = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - began) / calls * 1e6


def decision(size: int, blocks: array[int], rounds: int) -> str:
    """Scheduler.schedule with the policy least-connections, so that nothing but the look-ups is different."""
    scheduler = Scheduler(
        EndpointPool([EndpointSpec(f"e{n}", "", models={"m": "m"}) for n in range(size)]),
        registry.create("least-connections"),
    )
    index = scheduler.block_index
    for endpoint in scheduler.pool:
        endpoint.health.probe_passed()
        source = index.open(endpoint.slot)
        index.clear(source, complete=True)
        index.set_live(source, live=True)
        index.set_block_tokens(source, SIZE)
        held = SHARED + endpoint.slot * 3 % PROMPT  # all hold the beginning, each a part of the rest
        index.store(source, range(held), blocks[:held])
    plain = InferenceRequest("r", Kind.CHAT, "m", stream=True, prompt_tokens=8192, expected_output_tokens=100)
    told = replace(plain, blocks=blocks, block_tokens=SIZE)
    without, with_blocks = (
        statistics.median(timed(partial(scheduler.schedule, request, 0.0), 200) for _ in range(rounds))
        for request in (plain, told)
    )
    return f"{without:.1f} µs, {with_blocks:.1f} with {PROMPT} blocks that each of them holds more or less of"


@click.command()
@click.option("--blocks", default=1_000_000, show_default=True, help="Blocks in the index, of all engines together.")
@click.option("--endpoints", default=8, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="Runs that the medians are of.")
def main(blocks: int, endpoints: int, rounds: int) -> None:
    random = Random(0)
    index = BlockIndex()
    streams = [
        KvStream(index, Endpoint(EndpointSpec(f"e{slot}", ""), slot, Health()), time.time, can_replay=False)
        for slot in range(endpoints)
    ]
    shared = [random.randrange(128_000) for _ in range(SHARED * SIZE)]
    sequences = [0] * endpoints
    gc.collect()
    before = resident()
    storing: list[float] = []
    keys: list[array[int]] = []
    last: list[list[int]] = []
    last_slot = 0
    stored = 0
    while stored < blocks:
        slot = random.randrange(endpoints)
        ids = prompt(random, shared)
        told = list(messages(random, ids, sequences[slot]))
        began = time.thread_time()
        for payload, _ in told:
            streams[slot].take(Message(sequences[slot], payload))
            sequences[slot] += 1
        storing.append((time.thread_time() - began) / PROMPT * 1e6)
        stored += PROMPT
        if len(keys) < 200:
            keys.append(array("Q", block_keys(ids, SIZE, token_seed(""))))
        last = [hashes for _, hashes in told]
        last_slot = slot
    gc.collect()
    held = sum(len(stream.source.keys) for stream in streams)
    used = resident() - before
    click.echo(f"index of {held:,} blocks ({len(index):,} different) on {endpoints} endpoints: {used:.0f} MB")
    click.echo(
        f"a block stored: {statistics.median(storing):.2f} µs (message of {STEP} blocks, decoded, hashed, indexed)"
    )

    nothing = [array("Q", block_keys(prompt(random, shared[::-1]), SIZE, token_seed(""))) for _ in range(50)]
    for name, chains in (("held by one endpoint, its beginning by all", keys), ("held by nobody", nothing)):
        cold = [timed(partial(index.matched, chain), 1) for chain in chains]
        warm = [timed(partial(index.matched, chain), 20) for chain in chains for _ in range(rounds)]
        click.echo(
            f"a look-up of {PROMPT} blocks {name}: {statistics.median(cold):.1f} µs, "
            f"{statistics.median(warm):.1f} once they are in the processor's cache"
        )
    holes = BlockIndex()
    source = holes.open(0)
    holes.store(source, range(PROMPT), keys[0])
    holes.remove(source, range(200, 300))
    times = [timed(lambda: holes.matched(keys[0]), 20) for _ in range(rounds)]
    click.echo(f"a look-up of {PROMPT} blocks with a hole that was seen: {statistics.median(times):.1f} µs")

    for size in (8, 128):
        click.echo(f"a decision among {size} endpoints: {decision(size, keys[0], rounds)}")

    stream = streams[last_slot]
    payload = removals([each for hashes in last for each in reversed(hashes)])
    began = time.thread_time()
    stream.take(Message(sequences[last_slot], payload))
    click.echo(f"a block removed: {(time.thread_time() - began) / PROMPT * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
