"""One gateway under one slice of a trace: what clients saw, what the engines' caches did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.live_peers.engines import clear, counts
from benchmarks.live_peers.gateways import Start, gateway
from benchmarks.live_peers.processes import Refused
from benchmarks.overhead.measure import cpu_seconds


class Row(msgspec.Struct, frozen=True):
    """Times in seconds of the engines' clock: those of the wall times the speed."""

    name: str
    requests: int
    failed: int
    ttft: dict[str, float]  # mean, p50, p90, p99
    e2e: dict[str, float]
    hit_ratio: float  # by the engines' counters
    preemptions: int
    spread: float  # the most requests that an engine had over the mean
    cores: float  # CPU seconds of the gateway for each second of the replay
    lag_p99: float  # of the load generator, wall seconds


def measure(name: str, start: Start, load: Sequence[str]) -> Row:
    """Replay the slice that `load` describes (options of `llmgate bench`) through the gateway. Raises Refused."""
    with gateway(name, start) as (url, pid):
        clear(start.engines)
        before, cpu = counts(start.engines), cpu_seconds(pid)
        result = _bench(url, load, start.home / "bench.json")
        cpu = cpu_seconds(pid) - cpu
        clear(start.engines)
        after = counts(start.engines).since(before)
    if not result.get("ttft"):
        raise Refused(f"{name}: no request succeeded ({result.get('errors')})")
    served = sum(after.requests)
    lag = (result.get("generator") or {}).get("lag") or {}
    return Row(
        name,
        result["requests"],
        result["failed"],
        _times(result["ttft"], start.speed),
        _times(result["e2e"], start.speed),
        after.hits / after.queries if after.queries else 0.0,
        round(after.preemptions),
        max(after.requests) * len(after.requests) / served if served else 0.0,
        cpu / result["duration_s"],
        lag.get("p99", 0.0),
    )


def _bench(url: str, load: Sequence[str], file: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "llmgate", "bench", url, *load, "--json", str(file)]
    file.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not file.exists():
        raise Refused(f"llmgate bench ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return found


def _times(stats: dict[str, float], speed: float) -> dict[str, float]:
    return {name: stats[name] * speed for name in ("mean", "p50", "p90", "p99")}
