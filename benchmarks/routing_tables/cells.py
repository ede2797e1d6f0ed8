"""One run each of a policy on a scene at a load with a seed, kept as JSON: what was run before is read."""

from __future__ import annotations

import inspect
import json
import math
import multiprocessing
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import track
from xxhash import xxh3_64

import llmgate
from benchmarks.peers import PEERS
from benchmarks.routing_tables.scenes import SCENES, workload
from llmgate.sim.capacity import find_capacity
from llmgate.sim.run import simulate
from llmgate.sim.settings import Settings
from llmgate.workloads import scaled

BASELINE = "least-connections"
SCRAPE_PERIODS = {"llm-d default": 0.05}  # seconds, of projects that read gauges more often than llmgate (1 s)
KV_EVENTS = {"expected-latency, KV events": "expected-latency"}
"""Rows whose engines tell what they cache, by the policy that they are of."""
Figures = Mapping[str, float]
"""Of one run, by the names of sim/summary.py; `cpu_s` is what it took."""
Capacities = Mapping[str, Mapping[str, float]]
"""Row → scene → requests a second."""


@dataclass(frozen=True, slots=True)
class Cell:
    scene: str
    row: str  # a policy's name, or a peer's label
    rate_scale: float
    seed: int

    @property
    def policy(self) -> str:
        return PEERS.get(self.row, KV_EVENTS.get(self.row, self.row))

    @property
    def settings(self) -> Settings:
        settings = Settings(self.seed, kv_events=self.row in KV_EVENTS)
        return replace(settings, scrape_period=SCRAPE_PERIODS.get(self.row, settings.scrape_period))


def figures(cells: Sequence[Cell], home: Path, jobs: int) -> dict[Cell, Figures]:
    """Of all cells. Those that are not in `home` are run, in `jobs` processes side by side; an end by Ctrl-C loses only
    what is being run."""
    missing = [cell for cell in cells if not _path(cell, home).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        done: Iterable[None] = pool.map(_run, missing, [home] * len(missing))
        for _ in track(done, "Simulating", total=len(missing), console=Console(stderr=True)):
            pass
    return {cell: json.loads(_path(cell, home).read_bytes()) for cell in cells}


def capacity(scene: str, row: str, home: Path) -> float:
    """Rate scale at which a row still serves 90 % of the requests within the relative objective (seed 0)."""
    return _capacity((scene, row), home)["rate_scale"]


def rates(scenes: Sequence[str], rows: Sequence[str], home: Path, jobs: int) -> Capacities:
    """The same in requests a second, of each of the rows in each of the scenes."""
    wanted = [(scene, row) for scene in scenes for row in rows]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        done = pool.map(_capacity, wanted, [home] * len(wanted))
        found = list(track(done, "Finding capacities", total=len(wanted), console=Console(stderr=True)))
    return {
        row: {s: each["requests_per_s"] for (s, r), each in zip(wanted, found, strict=True) if r == row} for row in rows
    }


def _capacity(wanted: tuple[str, str], home: Path) -> Figures:
    scene, row = wanted
    path = home / f"capacity-{scene}-{row.replace(' ', '-')}-{_fingerprint(scene, row in PEERS)}.json"
    if not path.exists():
        cell = Cell(scene, row, 1.0, 0)
        found = find_capacity(workload(scene, 0), SCENES[scene].fleet(), cell.policy, settings=cell.settings)
        _write(path, {"rate_scale": found.rate_scale, "requests_per_s": found.requests_per_s})
    kept: Figures = json.loads(path.read_bytes())
    return kept


def _run(cell: Cell, home: Path) -> None:
    began = time.process_time()
    at_rate = scaled(workload(cell.scene, cell.seed), cell.rate_scale)
    run = simulate(at_rate, SCENES[cell.scene].fleet(), cell.policy, settings=cell.settings)
    figures = {name: value for name, value in run.summary.figures().items() if not math.isnan(value)}
    _write(_path(cell, home), figures | {"cpu_s": time.process_time() - began})


def _path(cell: Cell, home: Path) -> Path:
    key = json.dumps(asdict(cell) | {"code": _fingerprint(cell.scene, cell.row in PEERS)}, sort_keys=True)
    name = f"{cell.scene}-{cell.row.replace(' ', '-')}-{cell.rate_scale:.4f}-{cell.seed}"
    return home / f"{name}-{xxh3_64(key.encode()).hexdigest()}.json"


def _write(path: Path, data: Mapping[str, float]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data))
    part.replace(path)


@cache
def _fingerprint(scene: str, with_peers: bool) -> str:
    """Of the code and the data that a figure depends on: with other code it is another figure."""
    package, here = Path(llmgate.__file__).parent, Path(__file__).parent
    rooms = [package / room for room in ("core", "routing", "engines", "sim", "workloads")]
    files = [file for room in rooms for file in room.glob("*.py")]
    files += (here.parent / "data").glob("*.gz")
    if with_peers:
        files += (here.parent / "peers").glob("*.py")
    digest = xxh3_64((SCENES[scene].engines + inspect.getsource(SCENES[scene].workload)).encode())
    for file in sorted(files):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
