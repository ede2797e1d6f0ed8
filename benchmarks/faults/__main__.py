"""The real gateway under load, with faults.

    python -m benchmarks.faults [faults] [leaving] [rolling] [--requests 20000] [--json FILE] [--markdown FILE]

Runs, all of them unless some are named:
- faults: engines are killed, stopped, slowed down and reset connections, move to another address and their names with
  them (as root only: names.py), the configuration is reloaded and endpoints come and go, while a third of the clients
  leave at random moments;
- leaving: a third of the clients leave at random moments, and nothing else is wrong: a soak, if long
  (`leaving --requests 1000000`), with the gateway's memory after each tenth;
- rolling: two gateways share a port and are replaced, one by one, again and again; no client leaves, none may fail.

The exit code is 1 if a request was lost, a charge was left open, or a request failed in `leaving` or `rolling`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.faults.client import Load, Outcome, Tally, run, shown
from benchmarks.faults.faults import Faults
from benchmarks.faults.names import Names, available
from benchmarks.faults.processes import HOME, Configuration, EngineProcess, GatewayProcess, free_ports
from benchmarks.faults.report import MIB, Figure, figures, markdown, slope

ENGINES = 3
SAMPLES = 20
"""Of the gateway's memory in a run."""


class Scene:
    """Engines and a configuration for gateways in front of them."""

    def __init__(self, home: Path, engines: list[EngineProcess]) -> None:
        self.engines = engines
        homes = [HOME] * len(engines)
        self.names = Names(home / "hosts", homes) if available() else None
        (port,) = free_ports(1)
        hosts = self.names.hosts if self.names else homes
        self.configuration = Configuration(home / "gateway.yaml", port, engines, hosts)
        self._log = home / "gateway.log"

    @contextlib.asynccontextmanager
    async def gateway(self) -> AsyncIterator[GatewayProcess]:
        """A gateway that is ready; killed at the end, unless it has ended."""
        gateway = GatewayProcess(self.configuration, self._log, self.names)
        try:
            await gateway.ready()
            yield gateway
        finally:
            gateway.kill()


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        engines = []
        for number, port in enumerate(free_ports(ENGINES)):
            engines.append(EngineProcess(number, port))
            stack.callback(engines[-1].kill)
        yield Scene(Path(home), engines)


async def steady(scene: Scene, load: Load, progress: Progress, *, faulty: bool) -> dict[str, Figure]:
    """One gateway; with faults or without."""
    task = progress.add_task("faults" if faulty else "leaving", total=load.requests)
    tally = Tally()
    samples: list[tuple[int, int]] = []
    async with scene.gateway() as gateway:
        await run(Load(load.port, 200, 8, 0.0), Tally(), lambda: None)  # nothing is open for the first time later on
        descriptors, advance = gateway.descriptors(), shown(progress, task)

        def told() -> None:
            advance()
            done = tally.outcomes.total()
            if done % max(load.requests // SAMPLES, 1) == 0:
                samples.append((done, gateway.rss()))

        faults = Faults(scene.engines, gateway, scene.configuration, scene.names)
        raging = asyncio.create_task(faults.rage()) if faulty else None
        began = time.monotonic()
        await run(load, tally, told)
        seconds = time.monotonic() - began
        if raging is not None:
            raging.cancel()
            await asyncio.gather(raging, return_exceptions=True)
        await gateway.settled(descriptors)
        result = figures(tally) | {
            "requests a second": round(load.requests / seconds),
            "charges open at the end": await gateway.open_charges(),
            "bytes of requests held at the end": int(await gateway.metric("llmgate_buffered_request_bytes")),
            "requests in flight at the end": int(await gateway.metric("llmgate_requests_in_flight")),
            "more file descriptors than before": gateway.descriptors() - descriptors,
            "RSS at the end, MiB": round(gateway.rss() / MIB, 1),
            "RSS slope, MiB in 100,000 requests": round(slope(samples), 2),
            "exit code": await gateway.stop(),
        }
    if not faulty:
        result["RSS, MiB"] = ", ".join(f"{rss / MIB:.1f}" for _, rss in samples[1::2])
    return result | {f"{name}, times": count for name, count in faults.counts.items()}


async def rolling(scene: Scene, load: Load, progress: Progress) -> dict[str, Figure]:
    """Two gateways, replaced one by one until all of the load's requests are sent."""
    task = progress.add_task("rolling", total=load.requests)
    tally, restarts, codes = Tally(), 0, set()
    async with contextlib.AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(scene.gateway()) for _ in range(2)]
        running = asyncio.create_task(run(load, tally, shown(progress, task)))
        while not running.done():
            gateways.append(await stack.enter_async_context(scene.gateway()))
            codes.add(await gateways.pop(0).stop())
            restarts += 1
        await running
        codes.update([await gateway.stop() for gateway in gateways])
    exits = ", ".join(map(str, sorted(codes)))
    return figures(tally) | {"gateways replaced under load": restarts, "exit code": exits}


def failed(name: str, result: dict[str, Figure]) -> bool:
    must_be_0 = [Outcome.LOST.value, "charges open at the end"]
    if name != "faults":
        must_be_0 += [Outcome.REFUSED.value, Outcome.BROKEN.value]
    return any(result.get(each) for each in must_be_0) or result["exit code"] not in (0, "0")


async def main(names: list[str], requests: int, concurrency: int, seed: int) -> dict[str, dict[str, Figure]]:
    results: dict[str, dict[str, Figure]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            with scene() as staged:
                load = Load(staged.configuration.port, requests, concurrency, 0.0 if name == "rolling" else 1 / 3, seed)
                if name == "rolling":
                    results[name] = await rolling(staged, load, progress)
                else:
                    results[name] = await steady(staged, load, progress, faulty=name == "faults")
    return results


RUNS = ("faults", "leaving", "rolling")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="faults, leaving, rolling (default: all)")
    parser.add_argument("--requests", type=int, default=20_000, help="of each run (default: 20000)")
    parser.add_argument("--concurrency", type=int, default=64, help="clients (default: 64)")
    parser.add_argument("--seed", type=int, default=1, help="of what clients do (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="default: standard output")
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"there is no run {', '.join(sorted(unknown))}: choose from {', '.join(RUNS)}")
    results = uvloop.run(main(args.runs or list(RUNS), args.requests, args.concurrency, args.seed))
    table = markdown(results)
    if args.markdown:
        args.markdown.write_text(table)
    else:
        sys.stdout.write(table)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))
    sys.exit(any(failed(name, result) for name, result in results.items()))
