"""What a real engine took for a list of requests, and the same of the model: one shape for both."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmgate.engines.request import EngineRequest

Floats = NDArray[np.float64]
BLOCK = 16


@dataclass(frozen=True)
class Workload:
    """Requests with their arrivals (s from the first), in order."""

    arrivals: Sequence[float]
    requests: Sequence[EngineRequest]


@dataclass(frozen=True)
class Timings:
    """By request, in seconds; `running` and `waiting` at `seconds`."""

    ttft: Floats
    e2e: Floats
    tpot: Floats
    prefill: Floats  # from being scheduled to the first token; where that is not known, the same as ttft
    seconds: Floats
    running: Floats
    waiting: Floats


def timings(
    first: Floats, last: Floats, arrivals: Floats, outputs: Floats, gauges: Floats, scheduled: Floats | None = None
) -> Timings:
    """`gauges`: rows of (second, running, waiting)."""
    return Timings(
        ttft=first - arrivals,
        e2e=last - arrivals,
        tpot=(last - first) / np.maximum(outputs - 1, 1),
        prefill=first - (arrivals if scheduled is None else scheduled),
        seconds=gauges[:, 0],
        running=gauges[:, 1],
        waiting=gauges[:, 2],
    )


def load(directory: Path) -> tuple[Workload, Timings]:
    """A run as data/README.md describes it."""
    rows = [json.loads(line) for line in (directory / "requests.jsonl").read_text().splitlines()]
    queued = np.array([row["queued_ts"] for row in rows])
    arrived = np.array([row["arrival_time"] for row in rows])
    # Two clocks: the quickest way into the queue counts as no time, and what others waited longer, they waited.
    arrivals = arrived + (queued - arrived).min()
    start = arrivals[0]
    shared = directory / "shared_prefixes.json"
    chains = _chains(rows, json.loads(shared.read_text()) if shared.exists() else [])
    requests = [EngineRequest(n, row["input_toks"], row["output_toks"], chains[n], BLOCK) for n, row in enumerate(rows)]
    with (directory / "timeseries.csv").open() as file:
        series = [(float(row["t"]), float(row["running"]), float(row["waiting"])) for row in csv.DictReader(file)]
    columns = ("scheduled_ts", "first_token_ts", "last_token_ts", "output_toks")
    column = {key: np.array([row[key] for row in rows]) for key in columns}
    measured = timings(
        column["first_token_ts"] - start,
        column["last_token_ts"] - start,
        arrivals - start,
        column["output_toks"].astype(float),
        np.array(series),
        column["scheduled_ts"] - start,
    )
    return Workload(list(arrivals - start), requests), measured


def _chains(rows: Sequence[dict[str, int]], shared: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """Chain ids of prompt and answer, such that beginnings are shared as listed."""
    beginnings = {request: (earlier, blocks) for request, earlier, blocks in shared}
    chains: list[list[int]] = []
    fresh = 0
    for n, row in enumerate(rows):
        earlier, blocks = beginnings.get(n, (0, 0))
        chain = chains[earlier][:blocks] if blocks else []
        own = (row["input_toks"] + row["output_toks"]) // BLOCK - len(chain)
        chain += range(fresh, fresh + own)
        fresh += own
        chains.append(chain)
    return chains
