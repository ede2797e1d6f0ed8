"""Five minutes of a gateway as Prometheus and the dashboards see them.

    python -m benchmarks.observability [--seconds 300] [--directory docs/images]

Three simulated engines that run four requests at once; too many requests for the second and third fifth of the time,
and an engine that is killed in the fourth, and comes back. Prometheus (Debian's package) scrapes the gateway with the
files of deploy/prometheus; what panels of the overview ask is drawn into observability.png and observability-dark.png,
and what `llmgate top` and the dashboard show in the middle of it into top.svg and dashboard….png.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2
import yaml
from rich.console import Console

from benchmarks.faults.processes import free_ports
from benchmarks.observability.page import draw_page
from benchmarks.observability.picture import Panel, Series, draw
from llmgate.cli.top_view import Screen

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
ENGINES = ("a", "b", "c")
LIGHT, HEAVY = 6.0, 17.0  # requests a second; three engines can do some 13
SCRAPE = 5
STEP = 5  # seconds between points of the picture

# as in deploy/grafana; five minutes would be the whole run, so rates are those of one
PANELS: Sequence[tuple[str, str, Mapping[str, str]]] = (
    ("answers a second", "", {"{{code}}": "sum by (code) (rate(llmgate_requests_total[1m])) > 0"}),
    (
        "time to first token, s",
        "log",
        {
            f"p{percent}": f"histogram_quantile({percent / 100}, "
            "sum by (le) (rate(llmgate_time_to_first_token_seconds_bucket[1m])))"
            for percent in (50, 95)
        },
    ),
    ("queue, in batches", "", {"{{endpoint}}": "job_endpoint:llmgate_queue_batches:ratio"}),
    ("in flight", "", {"{{endpoint}}": "job_endpoint:llmgate_inflight_requests:sum"}),
    ("up", "", {"{{endpoint}}": "llmgate_endpoint_up"}),
    ("cached part of prompts", "", {"{{endpoint}}": "max by (endpoint) (llmgate_prefix_hit_ratio)"}),
)


@contextlib.contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def engine(port: int) -> list[str]:
    options = ["--model", "m", "--max-num-seqs", "4", "--output-tokens", "uniform:80:160"]
    return [
        sys.executable,
        "-m",
        "llmgate",
        "sim-engine",
        "--port",
        str(port),
        *options,
        "--enable-prompt-tokens-details",
    ]


def write_files(folder: Path, ports: Sequence[int], engines: Sequence[int]) -> None:
    data, admin, _ = ports
    endpoints = [{"name": name, "url": f"http://127.0.0.1:{port}"} for name, port in zip(ENGINES, engines, strict=True)]
    gateway = {
        "server": {"host": "127.0.0.1", "port": data},
        "admin": {"port": admin},
        "endpoints": endpoints,
        "health": {"slow_start": 0},
    }
    (folder / "llmgate.yaml").write_text(yaml.safe_dump(gateway))
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": f"{SCRAPE}s"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{data}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for file in ("rules.yml", "alerts.yml"):
        (folder / file).write_bytes((DEPLOY / file).read_bytes())


async def ask(client: httpx2.AsyncClient, rng: random.Random) -> None:
    """One of forty conversations goes on."""
    talk = rng.randrange(40)
    words = " ".join(f"w{talk}-{word}" for word in range(rng.randrange(200, 1200)))
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": words}]}
    with contextlib.suppress(httpx2.HTTPError):
        await client.post("/v1/chat/completions", json=body)


async def load(url: str, seconds: float) -> None:
    rng = random.Random(0)
    began = time.monotonic()
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client, asyncio.TaskGroup() as group:
        while (passed := (time.monotonic() - began) / seconds) < 1:
            heavy = 0.2 <= passed < 0.6
            await asyncio.sleep(rng.expovariate(HEAVY if heavy else LIGHT))
            group.create_task(ask(client, rng))


async def lose(process: subprocess.Popen[bytes], seconds: float) -> None:
    """An engine is killed after a quarter of the time, and may come back after another tenth."""
    await asyncio.sleep(0.25 * seconds)
    process.kill()
    process.wait()
    await asyncio.sleep(0.1 * seconds)


async def draw_top(url: str) -> str:
    """An SVG of what `llmgate top` shows in a terminal of 120 columns."""
    console = Console(width=120, file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor")
    screen = Screen()
    async with httpx2.AsyncClient() as client:
        screen.take((await client.get(f"{url}/api/snapshot")).raise_for_status().json())
    console.print(screen.lines(console))
    svg = console.export_svg(title="llmgate top")
    return re.sub(r"@font-face\s*{[^}]*}", "", svg)  # rich's would ask another host for a font


async def answers(url: str) -> None:
    async with httpx2.AsyncClient() as client:
        for _ in range(300):
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


async def panels(url: str, began: float, ended: float) -> list[Panel]:
    found = []
    async with httpx2.AsyncClient(base_url=url) as client:
        for title, scale, queries in PANELS:
            series: list[Series] = []
            for legend, expr in queries.items():
                asked: dict[str, str | float] = {"query": expr, "start": began, "end": ended, "step": STEP}
                answer = (await client.get("/api/v1/query_range", params=asked)).json()
                for each in answer["data"]["result"]:
                    name = each["metric"].get(legend.strip("{}"), legend)
                    points = [(float(at) - began, float(value)) for at, value in each["values"]]
                    series.append(Series(name, [point for point in points if point[1] == point[1]]))
            found.append(Panel(title, scale, series))
        alerts = (await client.get("/api/v1/query", params={"query": "max_over_time(ALERTS[10m])"})).json()
    told = sorted({(each["metric"]["alertname"], each["metric"]["alertstate"]) for each in alerts["data"]["result"]})
    sys.stdout.write(json.dumps({"alerts": told}, indent=1) + "\n")
    return found


async def run(seconds: float, directory: Path) -> None:
    ports, engines = free_ports(3), free_ports(3)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_files(folder, ports, engines)
        running = [stack.enter_context(started(*engine(port))) for port in engines]
        stack.enter_context(started(sys.executable, "-m", "llmgate", "serve", "--config", folder / "llmgate.yaml"))
        await answers(f"http://127.0.0.1:{ports[0]}/ready")
        database = f"127.0.0.1:{ports[2]}"
        options = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data"}
        stack.enter_context(started("prometheus", f"--web.listen-address={database}",
                                    *(f"--{name}={value}" for name, value in options.items())))  # fmt: skip
        await answers(f"http://{database}/-/ready")
        await asyncio.sleep(2 * SCRAPE)
        began = time.time()
        loading = asyncio.create_task(load(f"http://127.0.0.1:{ports[0]}", seconds))
        await asyncio.sleep(0.5 * seconds)
        admin = f"http://127.0.0.1:{ports[1]}"
        (directory / "top.svg").write_text(await draw_top(admin))
        await draw_page(admin, directory)
        await lose(running[-1], seconds)
        stack.enter_context(started(*engine(engines[-1])))
        await loading
        await asyncio.sleep(SCRAPE)
        light, dark = draw(await panels(f"http://{database}", began, time.time()))
        (directory / "observability.png").write_bytes(light)
        (directory / "observability-dark.png").write_bytes(dark)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--directory", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    asyncio.run(run(given.seconds, given.directory))
