"""How load was spread over the engines, as time went on."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llmgate.sim.flight import Host
from llmgate.sim.record import Floats

POINTS = 600
"""Of a series in the results: a picture shows no more."""


@dataclass(frozen=True, slots=True)
class EngineSeries:
    """One engine over time, averaged down to at most POINTS points."""

    name: str
    gpu: str
    model: str
    weight: float
    at: Floats  # seconds
    in_flight: Floats  # requests that the gateway had there, running or waiting
    kv_usage: Floats  # 0..1, by the readings that the gateway had


class Sampler:
    """Takes samples of all engines at once, and keeps them small whatever the length of the run: when there are twice
    POINTS of an engine, neighbours become their mean, and from then on twice as many samples make a point."""

    def __init__(self) -> None:
        self._points: dict[Host, _Points] = {}
        self._spread = 0.0
        self._load = 0.0

    def sample(self, hosts: Iterable[Host], now: float) -> None:
        loads = []
        for host in hosts:
            points = self._points.get(host)
            if points is None:
                points = self._points[host] = _Points()
            in_flight = host.endpoint.load.requests
            metrics = host.endpoint.metrics
            points.add(now, in_flight, 0.0 if metrics is None else metrics.kv_usage or 0.0)
            if host.serves_from <= now:
                loads.append(in_flight / host.endpoint.spec.weight)
        if loads:
            mean = math.fsum(loads) / len(loads)
            self._spread += math.sqrt(math.fsum((load - mean) ** 2 for load in loads) / len(loads))
            self._load += mean

    @property
    def imbalance(self) -> float:
        """Standard deviation over the engines of requests in flight for the weight, over their mean; both averaged over
        time first. 0: even all the time; sqrt(engines - 1): all of it on one at a time."""
        return self._spread / self._load if self._load else 0.0

    def series(self, host: Host) -> EngineSeries:
        spec, profile = host.endpoint.spec, host.engine.profile
        points = self._points.get(host) or _Points()
        return EngineSeries(spec.name, profile.gpu, profile.model, spec.weight, *points.arrays())


class _Points:
    def __init__(self) -> None:
        self._rows = array("d")  # time, in flight, KV usage of one point after another
        self._pending = [0.0, 0.0, 0.0]
        self._count = 0
        self._every = 1

    def add(self, *values: float) -> None:
        pending = self._pending
        for i, value in enumerate(values):
            pending[i] += value
        self._count += 1
        if self._count == self._every:
            self._rows.extend(value / self._count for value in pending)
            self._pending, self._count = [0.0, 0.0, 0.0], 0
            if len(self._rows) == 2 * POINTS * len(values):
                self._rows = array("d", self._table().reshape(-1, 2, 3).mean(axis=1).ravel())
                self._every *= 2

    def arrays(self) -> tuple[Floats, Floats, Floats]:
        table = self._table()
        if len(table) > POINTS:
            table = table[: len(table) // 2 * 2].reshape(-1, 2, 3).mean(axis=1)
        return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()

    def _table(self) -> Floats:
        return np.array(self._rows, dtype=np.float64).reshape(-1, 3)
