"""One gateway under load, and what it cost: CPU time, delay, memory of its whole process tree.

The gateway runs on core 1, the load generators and the engines on core 0. CPU time, unlike wall time, means
something on a shared machine, though caches and clock speed still move it: compare within one run, quote ratios.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.overhead import client
from benchmarks.overhead.peers import ENGINE_PORTS, PORT

URL = f"http://127.0.0.1:{PORT}/v1/chat/completions"
CHUNKS, GAP, STREAMS = 100, 0.01, 100
SIZES_KB = (1, 32, 128)
RATE = 500  # requests a second of the open loop
HELD = (1_000, 5_000)  # streams that are open at once

# A shared system prompt of KB kilobytes and a fresh question in each request.
LUA = r"""
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"
local kb, stream = tonumber(os.getenv("KB")), os.getenv("STREAM") == "1"
local system = string.rep("You are a helpful assistant, answer well. ", math.floor(kb * 1024 / 42))
local n = 0
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, '{"model":"m",' .. (stream and '"stream": true,' or "")
    .. '"messages":[{"role":"system","content":"' .. system
    .. '"},{"role":"user","content":"question ' .. n .. " " .. math.random(1e9) .. '"}]}')
end
"""

Row = dict[str, Any]
"""Figures by name, and under "trouble" what went wrong."""


@dataclass(frozen=True)
class Bench:
    """Where files go, and for how many seconds each load lasts."""

    home: Path
    seconds: int


def measure(command: Sequence[str], bench: Bench, columns: Sequence[str]) -> Row:
    """Figures of one gateway, each column's in a process of its own; without a command, of the engines themselves, of
    which only delays are told."""
    row: Row = {"trouble": []}
    if not command:
        if "latency" in columns:
            _delays(row, 0, bench, list(ENGINE_PORTS))
        return row
    for column in columns:
        try:
            _with_gateway(command, bench, row, COLUMNS[column])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            row["trouble"].append(f"{column}: {error}; see {bench.home / 'gateway.log'}")
    return row


def medians(rounds: Sequence[Row]) -> Row:
    """Medians over all rounds, and the troubles of any."""
    names = dict.fromkeys(name for each in rounds for name in each if name != "trouble")
    row: Row = {name: median([each[name] for each in rounds if name in each]) for name in names}
    return {**row, "trouble": sorted({text for each in rounds for text in each["trouble"]})}


Column = Callable[[Row, int, Bench], None]


def _with_gateway(command: Sequence[str], bench: Bench, row: Row, column: Column) -> None:
    must_be_free(PORT)  # else another process would be measured in its place
    with (bench.home / "gateway.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(["taskset", "-c", "1", *command], stdout=log, stderr=log)
    try:
        row["ready_s"] = wait_ready(process) - started
        column(row, process.pid, bench)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cost(row: Row, pid: int, bench: Bench) -> None:
    """CPU time of a request and of a chunk, in a closed loop."""
    row["rss_mb"] = rss_bytes(pid) / 1e6
    closed_loop(bench.home, 1, 32, 1)
    for kb in SIZES_KB:
        before = cpu_seconds(pid)
        served, trouble = closed_loop(bench.home, kb, 32, bench.seconds)
        row[f"us_per_request_{kb}kb"] = 1e6 * (cpu_seconds(pid) - before) / max(served, 1)
        row[f"rps_{kb}kb"] = served / bench.seconds
        row["trouble"] += [f"{kb} KB: {text}" for text in trouble]
    before = cpu_seconds(pid)
    served, trouble = closed_loop(bench.home, 1, STREAMS, bench.seconds + 2, stream=True)
    row["us_per_chunk"] = 1e6 * (cpu_seconds(pid) - before) / max(served * CHUNKS, 1)
    row["trouble"] += [f"streams: {text}" for text in trouble]


def _delays(row: Row, pid: int, bench: Bench, ports: Sequence[int] = (PORT,)) -> None:
    """Percentiles in an open loop: of a whole answer, and of a stream's first chunk and the time between two."""
    for stream, names in ((False, {"whole": "whole"}), (True, {"first": "ttft", "gaps": "gap"})):
        figures = _client("rate", ports, RATE, bench.seconds, 1, *(["stream"] if stream else []))
        if figures["failed"]:
            row["trouble"].append(f"{figures['failed']} {'streams' if stream else 'requests'} failed at {RATE}/s")
        for key, name in names.items():
            values = sorted(figures[key])
            for percent in (50, 99):
                if values:
                    row[f"{name}_p{percent}_us"] = 1e6 * values[len(values) * percent // 100]


def _memory(row: Row, pid: int, bench: Bench) -> None:
    """Resident memory that each open stream takes, beyond what was there without any."""
    closed_loop(bench.home, 1, 32, 1)
    idle = rss_bytes(pid)
    for streams in HELD:
        holder = subprocess.Popen(
            _command("hold", [PORT], streams), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        try:
            if holder.stdout.readline().strip() == "open":
                row[f"kb_per_stream_{streams}"] = (rss_bytes(pid) - idle) / streams / 1e3
            else:
                row["trouble"].append(f"{streams} streams could not be held open")
        finally:
            holder.communicate("", timeout=60)


COLUMNS: dict[str, Column] = {"cpu": _cost, "latency": _delays, "memory": _memory}


def _command(*words: object) -> list[str]:
    texts = [",".join(map(str, word)) if isinstance(word, list | tuple | range) else str(word) for word in words]
    return ["taskset", "-c", "0", sys.executable, client.__file__, *texts]


def _client(*words: object) -> dict[str, Any]:
    done = subprocess.run(_command(*words), capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def closed_loop(home: Path, kb: int, connections: int, seconds: int, *, stream: bool = False) -> tuple[int, list[str]]:
    """Requests served, and complaints of wrk."""
    script = home / "load.lua"
    script.write_text(LUA)
    output = subprocess.run(
        [
            *("taskset", "-c", "0", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"),
            *("--timeout", "30s", "-s", str(script), URL),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, KB=str(kb), STREAM="1" if stream else "0"),
    ).stdout
    found = re.search(r"(\d+) requests in", output)
    served = int(found[1]) if found else 0
    trouble = re.findall(r"Non-2xx.*|Socket errors.*", output)
    return served, trouble if served else ["nothing served"]


def must_be_free(*ports: int) -> None:
    """Raises RuntimeError if somebody listens on one of them."""
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise RuntimeError(f"somebody listens on port {port}: end that process first (`ss -ltnp` shows it)")


def wait_ready(process: subprocess.Popen[bytes]) -> float:
    """Returns when a request was answered, with that moment."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    for _ in range(3000):
        if process.poll() is not None:
            raise RuntimeError(f"exited with {process.returncode}")
        try:
            urllib.request.urlopen(urllib.request.Request(URL, body, {"content-type": "application/json"}), timeout=2)
            return time.perf_counter()
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("not ready in 60 s")


def tree(root: int) -> set[int]:
    """The process and all its living descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def cpu_seconds(root: int) -> float:
    """User and system time of the process tree."""
    ticks = 0
    for pid in tree(root):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(root: int) -> int:
    """Resident memory of the process tree."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree(root)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")
