"""Is `llmgate bench` right? The same load on the same server by it and by guidellm, side by side.

    python -m benchmarks.bench_check [--url URL] [--rate 3 | --concurrency 4] [--requests 80] [--rounds 3] [--json FILE]

guidellm (PyPI) is installed into a virtual environment of its own the first time: 6 GB, since it needs torch. Without
`--url` a simulated engine is started, in real time. The two take turns, `--rounds` times; figures are medians of the
rounds. guidellm goes first and draws the lengths; llmgate sends requests of the lengths that the server counted, in the
same order. Needs taskset, two cores, and little else going on: what waits for a core counts as latency.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Column, Table

from benchmarks.bench_check.tools import FIGURES, Figures, Load, guidellm, llmgate

PORT = 9600
TARGET = 0.05  # how far the means may be apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that runs already, without /v1")
    parser.add_argument("--profile", default="h100:llama-3.1-8b", help="of the simulated engine (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=4, help="of a closed loop (%(default)s)")
    parser.add_argument("--rate", type=float, help="of an open loop with requests at even times, a second")
    parser.add_argument("--requests", type=int, default=80)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/llmgate-bench-check")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.home.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(args.url) if args.url else sim_engine(args.profile) as url:
        lengths = args.prompt_tokens, args.output_tokens
        load = Load(url, model_of(url), args.concurrency, args.rate, args.requests, *lengths)
        theirs, ours = rounds(load, args.rounds, args.home)
    show(load, theirs, ours)
    if args.json:
        args.json.write_text(json.dumps({"guidellm": theirs, "llmgate": ours}, indent=2) + "\n")


def rounds(load: Load, count: int, home: Path) -> tuple[Figures, Figures]:
    """Medians over the rounds: guidellm's and ours."""
    taken: list[tuple[Figures, Figures]] = []
    for seed in range(count):
        theirs, lengths = guidellm(load, seed, home)
        taken.append((theirs, llmgate(load, lengths, home)))
    left, right = zip(*taken, strict=True)
    return medians(left), medians(right)


def medians(rounds: tuple[Figures, ...]) -> Figures:
    return {name: median(each[name] for each in rounds) for name in FIGURES}


def show(load: Load, theirs: Figures, ours: Figures) -> None:
    title = f"{load.kind}, {load.requests} requests of about {load.output_tokens} output tokens"
    table = Table("mean", *(Column(name, justify="right") for name in ("guidellm", "llmgate", "apart")), title=title)
    for name in FIGURES:
        apart = ours[name] / theirs[name] - 1
        mark = "" if abs(apart) <= TARGET else "  more than 5 %"
        table.add_row(name, f"{theirs[name]:,.2f}", f"{ours[name]:,.2f}", f"{apart:+.1%}{mark}")
    Console(width=100).print(table)


@contextlib.contextmanager
def sim_engine(profile: str) -> Iterator[str]:
    """A simulated engine on a core of its own, and its URL."""
    command = ["taskset", "-c", "1", sys.executable, "-m", "llmgate", "sim-engine", "--port", str(PORT)]
    process = subprocess.Popen([*command, "--profile", profile, "--tokenizer", "embedded"])
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.terminate()
        process.wait()


def model_of(url: str) -> str:
    """The name of the served model, as soon as it is served."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=2) as answer:
                return str(json.load(answer)["data"][0]["id"])
        except (OSError, LookupError):
            time.sleep(0.1)
    sys.exit(f"{url} served no model within 30 s")


if __name__ == "__main__":
    main()
