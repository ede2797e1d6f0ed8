"""CPU cost of LLM gateways, side by side in one run.

    python -m benchmarks.overhead [--rounds 5] [--peers smg,vllm-router,envoy,nginx] [--json FILE]

Each gateway stands in front of eight fake engines, in turn, `--rounds` times; medians are reported. Needs wrk, taskset,
two cores, and nginx or haproxy if they are among the peers. Ports 9000, 9001 and 9100 to 9107 must be free.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.overhead import fake_engines
from benchmarks.overhead.measure import CHUNKS, FIGURES, GAP, Row, measure, medians
from benchmarks.overhead.peers import ENGINE_PORTS, ENGINES, NAMES, PORT, command

LLMGATE = f"-m llmgate serve ENGINES --host 127.0.0.1 --port {PORT} --admin-port {PORT + 1} --log-level warning"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs llmgate (default: this one)")
    parser.add_argument("--gateway", action="append", default=[], metavar="NAME=COMMAND", help="another gateway, too")
    parser.add_argument("--peers", default="smg,vllm-router,envoy,nginx", help="of: " + ", ".join(NAMES))
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/llmgate-overhead")
    parser.add_argument("--seconds", type=int, default=4, help="of load for each figure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.home.mkdir(parents=True, exist_ok=True)
    commands = {"llmgate": _words(f"{args.python} {LLMGATE}")}
    for item in args.gateway:
        name, words = item.split("=", 1)
        commands[name] = _words(words)
    for name in filter(None, args.peers.split(",")):
        commands[name] = command(name, args.home)
    rows = _run(commands, args.home, args.seconds, args.rounds)
    _print(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


def _words(line: str) -> list[str]:
    return [url for word in shlex.split(line) for url in (ENGINES if word == "ENGINES" else [word])]


def _run(commands: dict[str, list[str]], home: Path, seconds: int, rounds: int) -> dict[str, Row]:
    taken: dict[str, list[Row]] = {name: [] for name in commands}
    options = map(str, (ENGINE_PORTS[0], len(ENGINE_PORTS), CHUNKS, GAP))
    engines = subprocess.Popen(["taskset", "-c", "0", sys.executable, fake_engines.__file__, *options])
    try:
        time.sleep(0.5)
        turns = [name for _ in range(rounds) for name in commands]
        for name in track(turns, "Measuring", console=Console(stderr=True)):
            taken[name].append(measure(commands[name], home, seconds))
    finally:
        engines.terminate()
        engines.wait()
    return {name: medians(each) for name, each in taken.items()}


def _print(rows: dict[str, Row]) -> None:
    table = Table(title="µs of CPU time")
    for column in (
        "",
        "1 KB",
        "32 KB",
        "128 KB",
        "SSE chunk",
        "req/s at 1 KB",
        "p50/p99",
        "ready s",
        "RSS MB",
        "trouble",
    ):
        table.add_column(column, justify="left" if column in ("", "trouble") else "right")
    for name, row in rows.items():
        cells = [*(row.get(key, "") for key in FIGURES), row.get("rps_1kb", ""), row.get("p50_p99_1kb", "")]
        cells += [row.get("ready_s", ""), row.get("rss_mb", ""), "; ".join(row["trouble"])]
        table.add_row(name, *map(str, cells))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
