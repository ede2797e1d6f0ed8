"""What LLM gateways cost, side by side in one run: CPU time, delay, memory.

    python -m benchmarks.overhead [--rounds 5] [--peers smg,vllm-router,envoy] [--columns cpu] [--json FILE]

Each gateway stands in front of eight fake engines, in turn, `--rounds` times; medians are reported. `direct` is no
gateway at all: what the others are held against in the columns of `latency`. Needs wrk, taskset, two cores, and nginx
and haproxy if they are among the peers. Ports 9000, 9001 and 9100 to 9107 must be free.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.overhead import fake_engines, table
from benchmarks.overhead.measure import CHUNKS, COLUMNS, GAP, HELD, Bench, Row, measure, medians, must_be_free
from benchmarks.overhead.peers import ENGINE_PORTS, ENGINES, NAMES, PORT, command, llmgate

DESCRIPTORS = 2 * max(HELD) + 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs llmgate (default: this one)")
    parser.add_argument("--gateway", action="append", default=[], metavar="NAME=COMMAND", help="another gateway, too")
    parser.add_argument("--peers", default=",".join(NAMES), help="of: " + ", ".join(NAMES))
    parser.add_argument("--columns", default=",".join(COLUMNS), help="of: " + ", ".join(COLUMNS))
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/llmgate-overhead")
    parser.add_argument("--seconds", type=int, default=4, help="of load for each figure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="the tables, for a page of docs")
    args = parser.parse_args()
    columns = [column for column in args.columns.split(",") if column]
    if unknown := {*columns} - COLUMNS.keys():
        parser.error(f"--columns: no such column: {', '.join(sorted(unknown))}")
    _raise_limit(parser)
    args.home.mkdir(parents=True, exist_ok=True)
    commands = {table.DIRECT: [], "llmgate": llmgate(args.python, args.home)}
    for item in args.gateway:
        name, words = item.split("=", 1)
        commands[name] = _words(words)
    for name in filter(None, args.peers.split(",")):
        commands[name] = command(name, args.home)
    rows = _run(commands, Bench(args.home, args.seconds), columns, args.rounds)
    shown = [("µs of CPU time, and more", table.cost(rows)), ("ms of delay that are added", table.delay(rows))]
    console = Console(width=200)
    for title, cells in shown:
        console.print(table.rich(title, cells))
    for trouble in table.troubles(rows):
        console.print(trouble, style="yellow")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))
    if args.markdown:
        args.markdown.write_text("\n".join(table.markdown(cells) for _, cells in shown))


def _raise_limit(parser: argparse.ArgumentParser) -> None:
    """Of open files, for this process and all that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        if hard < DESCRIPTORS:
            parser.error(f"{DESCRIPTORS} open files are needed, and the limit is {hard}: raise it with ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def _words(line: str) -> list[str]:
    return [url for word in shlex.split(line) for url in (ENGINES if word == "ENGINES" else [word])]


def _run(commands: dict[str, list[str]], bench: Bench, columns: list[str], rounds: int) -> dict[str, Row]:
    taken: dict[str, list[Row]] = {name: [] for name in commands}
    must_be_free(PORT, PORT + 1, *ENGINE_PORTS)
    options = map(str, (ENGINE_PORTS[0], len(ENGINE_PORTS), CHUNKS, GAP))
    engines = subprocess.Popen(["taskset", "-c", "0", sys.executable, fake_engines.__file__, *options])
    try:
        time.sleep(0.5)
        turns = [name for _ in range(rounds) for name in commands]
        for name in track(turns, "Measuring", console=Console(stderr=True)):
            taken[name].append(measure(commands[name], bench, columns))
    finally:
        engines.terminate()
        engines.wait()
    return {name: medians(each) for name, each in taken.items()}


if __name__ == "__main__":
    main()
