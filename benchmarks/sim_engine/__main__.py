"""How far simulated engines over HTTP stray from what the model says, when many share one core.

    python -m benchmarks.sim_engine [--engines 8] [--rate 50] [--speed 10] [--seconds 30] [--realtime]

Starts `llmgate sim-engine` as processes that are all pinned to the machine's last core, and sends streamed chats of
mixed lengths, open loop, from the other cores. Each answer carries the model's own times (`x-sim-times`); those that
the client measured, times the speed, are set against them. Lengths are lognormal: prompts with median 1,020 and sigma
0.7, answers with median 151 and sigma 0.86, as those of AzureLLMInferenceTrace_conv.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sim_engine.client import Client, Sample, request
from llmgate.cli.serve import event_loop

WARM_UP = 3.0  # s that do not count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, to all engines together")
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--profile", default="h100:llama-3.1-8b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures there (- is stdout)")
    parser.add_argument(
        "--realtime", action="store_true", help="before all other processes of a busy machine; for root"
    )
    given = parser.parse_args()
    if given.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))  # which the engines inherit
    cores = sorted(os.sched_getaffinity(0))
    engines = [start(given, cores[-1]) for _ in range(given.engines)]
    try:
        ports = [port_of(engine) for engine in engines]
        os.sched_setaffinity(0, set(cores[:-1] or cores))
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            samples, busy = runner.run(drive(given, ports, [engine.pid for engine in engines]))
    finally:
        for engine in engines:
            engine.terminate()
        for engine in engines:
            engine.wait()
    report(given, samples, busy)


def start(given: argparse.Namespace, core: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmgate", "sim-engine", "--port", "0", "--profile", given.profile]
    return subprocess.Popen(
        [*command, "--speed", str(given.speed)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # no thread is running yet
    )


def port_of(engine: subprocess.Popen[str]) -> int:
    assert engine.stderr is not None
    line = engine.stderr.readline()
    if " on http://" not in line:
        raise SystemExit(f"an engine did not start: {line}")
    return int(line.rpartition(":")[2])


async def drive(
    given: argparse.Namespace, ports: Sequence[int], processes: Sequence[int]
) -> tuple[list[Sample], float]:
    """The samples after the warm-up, and how much of the engines' core they used."""
    draw = random.Random(given.seed)
    idle: dict[int, list[Client]] = {port: [] for port in ports}
    samples: list[Sample] = []
    loop = asyncio.get_running_loop()

    async def one(port: int, data: bytes, counts: bool) -> None:
        client = idle[port].pop() if idle[port] else (await loop.create_connection(Client, "127.0.0.1", port))[1]
        sample = await client.send(data)
        idle[port].append(client)
        if counts:
            samples.append(sample)

    begun = time.monotonic()
    before = (begun, cpu_seconds(processes))
    due = 0.0
    async with asyncio.TaskGroup() as group:
        for number in range(int(given.rate * (given.seconds + WARM_UP))):
            due += draw.expovariate(given.rate)
            prompt = min(16_000, max(16, round(draw.lognormvariate(math.log(1020), 0.7))))
            answer = min(2_000, max(2, round(draw.lognormvariate(math.log(151), 0.86))))
            data = request(prompt, answer, number)
            await asyncio.sleep(begun + due - time.monotonic())
            if due > WARM_UP > due - 1 / given.rate:
                before = (time.monotonic(), cpu_seconds(processes))
            group.create_task(one(draw.choice(ports), data, due > WARM_UP))
        used = cpu_seconds(processes) - before[1]
        busy = used / (time.monotonic() - before[0])
    return samples, busy


def cpu_seconds(processes: Sequence[int]) -> float:
    total = 0
    for process in processes:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "p50": lambda values: statistics.quantiles(values, n=100)[49],
    "p90": lambda values: statistics.quantiles(values, n=100)[89],
    "p99": lambda values: statistics.quantiles(values, n=100)[98],
}


def report(given: argparse.Namespace, samples: list[Sample], busy: float) -> None:
    series = {
        "TTFT": ([s.ttft * given.speed for s in samples], [s.modelled_ttft for s in samples]),
        "TPOT": ([s.tpot * given.speed for s in samples], [s.modelled_tpot for s in samples]),
    }
    figures: dict[str, Any] = {"requests": len(samples), "core_busy": busy, "load_average": os.getloadavg()[0]}
    table = Table("", "", "modelled, ms", "measured × speed, ms", "apart")
    for name, (measured, modelled) in series.items():
        for statistic, of in STATISTICS.items():
            there, here = of(modelled) * 1000, of(measured) * 1000
            figures[f"{name.lower()}_{statistic}"] = {"modelled_s": there / 1000, "measured_s": here / 1000}
            table.add_row(name, statistic, f"{there:.2f}", f"{here:.2f}", f"{here / there - 1:+.1%}")
    tokens = sum(sample.tokens for sample in samples)
    figures["tokens_per_s"] = tokens / given.seconds
    console = Console(stderr=given.json == "-")
    console.print(table)
    console.print(
        f"{len(samples)} requests, {given.engines} engines, {given.rate:g}/s, speed {given.speed:g}: "
        f"{tokens / given.seconds:,.0f} tokens/s, the engines' core {busy:.0%} busy with them "
        f"(load average {figures['load_average']:.1f})"
    )
    if given.json == "-":
        print(json.dumps(figures, indent=2))  # noqa: T201
    elif given.json:
        with open(given.json, "w") as file:  # noqa: PTH123
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
