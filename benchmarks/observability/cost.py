"""What it costs to see everything.

    python -m benchmarks.observability.cost [--rounds 5] [--seconds 2] [--page FILE]

1. CPU time a request and a chunk with all of it on (access log, traces sampled at 1 % to a collector, policies
   compared, a scrape and a snapshot each second) and all of it off, in turns.
2. CPU time of a gateway that does nothing but read the metrics of 100 engines each second.
3. By how much a scrape in front of 100 engines holds the event loop up, at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import yaml
from rich.console import Console
from rich.progress import track

from benchmarks.observability import engines
from benchmarks.overhead.measure import Bench, Row, cpu_seconds, measure, medians, must_be_free
from benchmarks.overhead.peers import PORT
from benchmarks.tracing.collector import collector
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointMetrics, EndpointSpec, EngineCounts, Usage
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.scrape import scrape

ADMIN, FIRST, MANY = PORT + 2, 9100, 100
PAGE = Path(__file__).parents[2] / "tests/data/engines/vllm-0.32/metrics-load.txt.gz"
WATCHED_SECONDS = 20.0


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Asks whoever has the admin port ADMIN for a page each second, and watches its snapshots."""
    over = threading.Event()
    url = f"http://127.0.0.1:{ADMIN}"

    def ask() -> None:
        with httpx2.Client(base_url=url, timeout=2) as client:
            while not over.wait(1.0):
                with contextlib.suppress(httpx2.HTTPError):
                    client.get("/metrics")

    def watch() -> None:
        with httpx2.Client(base_url=url, timeout=2) as client:
            while not over.wait(0.2):
                with contextlib.suppress(httpx2.HTTPError), client.stream("GET", "/api/live") as answer:
                    for _ in answer.iter_bytes():
                        if over.is_set():
                            return

    threads = [threading.Thread(target=work) for work in (ask, watch)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


def command(folder: Path, name: str, count: int, python: str, **sections: Any) -> Sequence[str]:
    urls = [{"url": f"http://127.0.0.1:{FIRST + number}"} for number in range(count)]
    server = {"host": "127.0.0.1", "port": PORT}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"server": server, "endpoints": urls} | sections))
    return [python, "-m", "llmgate", "serve", "--config", str(file), "--log-level", "warning"]


def under_load(folder: Path, python: str, rounds: int, seconds: int) -> dict[str, Row]:
    taken: dict[str, list[Row]] = {"off": [], "on": []}
    bench = Bench(folder, seconds)
    with collector() as url, watching():
        on = {
            "admin": {"port": ADMIN},
            "access_log": {"to": str(folder / "access.log")},
            "tracing": {"enabled": True, "endpoint": url, "sample": 0.01},
        }
        off = {"admin": {"port": PORT + 1}, "router": {"compare": False}}
        commands = {
            "off": command(folder, "off", 8, python, **off),
            "on": command(folder, "on", 8, python, **on),
        }
        turns = [name for _ in range(rounds) for name in commands]
        for name in track(turns, "Under load", console=Console(stderr=True)):
            taken[name].append(measure(commands[name], bench, ["cpu"]))
    return {name: medians(rows) for name, rows in taken.items()}


def idle(folder: Path, python: str) -> float:
    """The part of a core."""
    words = command(folder, "idle", MANY, python, admin={"port": ADMIN})
    process = subprocess.Popen(["taskset", "-c", "1", *words])
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{ADMIN}") as client:
            wait_until(lambda: _all_up(client), f"{MANY} engines are not up")
            time.sleep(3)
            before, began = cpu_seconds(process.pid), time.perf_counter()
            time.sleep(WATCHED_SECONDS)
            return (cpu_seconds(process.pid) - before) / (time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait()


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise SystemExit(f"{otherwise} after 30 s")


def _all_up(client: httpx2.Client) -> bool:
    try:
        totals = client.get("/api/snapshot").json()["totals"]
    except httpx2.HTTPError:
        return False
    return bool(totals["ready"] == MANY)


async def held_up() -> tuple[float, float]:
    """Seconds that a scrape takes, and the longest that others wait meanwhile; the best of 20."""
    pool = EndpointPool([EndpointSpec(f"engine-{n}", "http://e", models={"m": "m"}) for n in range(MANY)])
    metrics = Metrics(pool, time.monotonic)
    for endpoint in pool:
        endpoint.metrics = EndpointMetrics(
            time.monotonic(), 1, 1, 0.5, 1000, max_running=8, counts=EngineCounts(4, 3, 2, 1)
        )
        for seconds in (0.1, 1.0, 10.0):
            metrics.request_ended(
                "m", endpoint.name, 200, stream=True, duration=seconds, ttft=seconds / 9, overhead=1e-4,
                usage=Usage(10, 10, 5), estimated_prompt_tokens=9,
            )  # fmt: skip
        metrics.objectives.ttft_predicted("m", endpoint.name, 1.0)
        metrics.objectives.tpot_predicted("m", endpoint.name, 1.0)
    results = []
    for _ in range(20):
        began = time.perf_counter()
        scraping = asyncio.create_task(scrape(metrics, None))
        longest = 0.0
        while not scraping.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
        results.append((time.perf_counter() - began, longest))
    return min(took for took, _ in results), min(longest for _, longest in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs llmgate (default: this one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE, help="what an engine's /metrics says")
    args = parser.parse_args()
    out = Console()
    took, longest = asyncio.run(held_up())
    out.print(
        f"a scrape of {MANY} endpoints takes {1e3 * took:.1f} ms and holds others up for {1e3 * longest:.1f} at a time"
    )
    must_be_free(PORT, PORT + 1, ADMIN)
    words = [sys.executable, "-m", engines.__name__, str(FIRST), str(MANY), str(args.page)]
    process = subprocess.Popen(["taskset", "-c", "0", *words])
    try:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            share = idle(folder, args.python)
            out.print(f"idle, with {MANY} engines that are scraped each second: {100 * share:.1f} % of a core")
            rows = under_load(folder, args.python, args.rounds, args.seconds)
    finally:
        process.terminate()
        process.wait()
    for name, unit in (("us_per_request_1kb", "µs a request of 1 KB"), ("us_per_chunk", "µs a chunk")):
        off, on = rows["off"][name], rows["on"][name]
        out.print(f"{unit}: {off:.1f} with all of it off, {on:.1f} on ({on - off:+.1f})")
    for name, row in rows.items():
        for trouble in row["trouble"]:
            out.print(f"{name}: {trouble}", style="yellow")


if __name__ == "__main__":
    main()
