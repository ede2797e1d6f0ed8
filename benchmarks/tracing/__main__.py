"""How long the event loop waits while another thread exports spans.

    python -m benchmarks.tracing [--at-once 32 512] [--rate 200] [--seconds 10]

A loop that wakes each millisecond traces `--rate` requests a second, of two spans each; printed is by how much it woke
late. Both threads are Python's, and one that encodes spans lets go of the lock every 5 ms, or when it waits for the
collector, which is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import uvloop
from rich import print

from benchmarks.tracing.collector import collector
from llmgate.telemetry import tracing
from llmgate.telemetry.tracing import Attributes, Tracing

SERVER: Attributes = {f"llmgate.server.attribute{number}": number for number in range(20)}
CLIENT: Attributes = {f"llmgate.client.attribute{number}": number for number in range(8)}


async def late(wakings: list[float]) -> None:
    while True:
        asleep = time.perf_counter()
        await asyncio.sleep(0.001)
        wakings.append(time.perf_counter() - asleep - 0.001)


async def main(url: str, at_once: int, rate: int, seconds: float) -> None:
    tracing.AT_ONCE = at_once
    traces = Tracing(endpoint=url, sample=1.0)
    wakings: list[float] = []
    watch = asyncio.create_task(late(wakings))
    began = time.process_time()
    for _ in range(int(rate * seconds)):
        trace = traces.begin([])
        assert trace is not None  # all are recorded
        trace.attempt("chat m", CLIENT)
        trace.attempt_ended({}, None)
        trace.end("chat m", SERVER, None, None)
        await asyncio.sleep(1 / rate)
    busy = time.process_time() - began
    watch.cancel()
    await traces.close()
    wakings.sort()
    half, most, longest = (wakings[int(part * (len(wakings) - 1))] * 1e3 for part in (0.5, 0.999, 1.0))
    print(
        f"{at_once} at once: {half:.1f} ms late at the median, {most:.1f} at 99.9 %, {longest:.1f} at most; "
        f"CPU {busy:.2f} s; {traces.counts}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, nargs="+", default=[tracing.AT_ONCE, 512], help="(default: 32 512)")
    parser.add_argument("--rate", type=int, default=200, help="requests a second (default: 200)")
    parser.add_argument("--seconds", type=float, default=10, help="(default: 10)")
    args = parser.parse_args()
    for at_once in args.at_once:
        with collector() as url:
            uvloop.run(main(url, at_once, args.rate, args.seconds))
