"""One gateway under load, and what it cost: CPU time of its whole process tree for each request and each SSE chunk.

The gateway runs on core 1, the load generator (wrk) and the engines on core 0. CPU time, unlike wall time, means
something on a shared machine, though caches and clock speed still move it: compare within one run, quote ratios.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.overhead.peers import PORT

URL = f"http://127.0.0.1:{PORT}/v1/chat/completions"
CHUNKS, GAP, STREAMS = 100, 0.01, 100
SIZES_KB = (1, 32, 128)
FIGURES = (*(f"us_per_request_{kb}kb" for kb in SIZES_KB), "us_per_chunk")

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


def measure(command: Sequence[str], home: Path, seconds: int) -> Row:
    """Figures of one gateway; what went wrong stands under "trouble"."""
    row: Row = {"trouble": []}
    with (home / "gateway.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(["taskset", "-c", "1", *command], stdout=log, stderr=log)
    try:
        row["ready_s"] = round(wait_ready(process) - started, 2)
        row["rss_mb"] = round(sum(rss_bytes(pid) for pid in tree(process.pid)) / 1e6, 1)
        load(home, 1, 32, 1)
        for kb in SIZES_KB:
            before = cpu_seconds(process.pid)
            served, latency, trouble = load(home, kb, 32, seconds)
            row[f"us_per_request_{kb}kb"] = 1e6 * (cpu_seconds(process.pid) - before) / max(served, 1)
            row[f"rps_{kb}kb"] = round(served / seconds)
            row[f"p50_p99_{kb}kb"] = latency
            row["trouble"] += [f"{kb} KB: {text}" for text in trouble]
        before = cpu_seconds(process.pid)
        served, _, trouble = load(home, 1, STREAMS, seconds + 2, stream=True)
        row["us_per_chunk"] = 1e6 * (cpu_seconds(process.pid) - before) / max(served * CHUNKS, 1)
        row["trouble"] += [f"streams: {text}" for text in trouble]
    except RuntimeError as error:
        row["trouble"].append(f"{error}; see {home / 'gateway.log'}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return row


def medians(rounds: Sequence[Row]) -> Row:
    """The last round's row with medians over all rounds for the figures, and the troubles of any round."""
    row = dict(rounds[-1])
    for key in (*FIGURES, "ready_s", "rss_mb"):
        values = [each[key] for each in rounds if key in each]
        if values:
            row[key] = round(median(values), 1 if key != "ready_s" else 2)
    row["trouble"] = sorted({text for each in rounds for text in each["trouble"]})
    return row


def load(home: Path, kb: int, connections: int, seconds: int, *, stream: bool = False) -> tuple[int, str, list[str]]:
    """Requests served, "p50/p99" latency, and complaints of wrk."""
    script = home / "load.lua"
    script.write_text(LUA)
    output = subprocess.run(
        [
            *("taskset", "-c", "0", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
            *("--timeout", "30s", "-s", str(script), URL),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, KB=str(kb), STREAM="1" if stream else "0"),
    ).stdout
    found = re.search(r"(\d+) requests in", output)
    served = int(found[1]) if found else 0
    p50, p99 = (re.search(rf"^\s+{p}%\s+(\S+)", output, re.M) for p in (50, 99))
    trouble = re.findall(r"Non-2xx.*|Socket errors.*", output)
    return served, f"{p50[1] if p50 else '?'}/{p99[1] if p99 else '?'}", trouble if served else ["nothing served"]


def wait_ready(process: subprocess.Popen[bytes]) -> float:
    """Returns when a request was answered, with that moment."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    for _ in range(1500):
        if process.poll() is not None:
            raise RuntimeError(f"exited with {process.returncode}")
        try:
            urllib.request.urlopen(urllib.request.Request(URL, body, {"content-type": "application/json"}), timeout=2)
            return time.perf_counter()
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("not ready in 30 s")


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


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
