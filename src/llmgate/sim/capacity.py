"""The highest rate at which a policy still does well enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmgate.engines.spec import EngineSpec
from llmgate.sim.incidents import Incident
from llmgate.sim.record import Recorder
from llmgate.sim.run import simulate
from llmgate.sim.settings import Settings
from llmgate.sim.slo import Slo, SloBounds
from llmgate.workloads import Workload, scaled

SHARE = 0.9
"""Of the requests must meet the objective."""

LOWEST, HIGHEST = 1 / 64, 64.0
"""Rate scales between which the capacity is looked for."""

PRECISION = 0.02
"""The answer is at most this fraction below the true one, were goodput to fall steadily with the rate."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """`rate_scale` 0: not even the lowest was met. `requests_per_s`: what that is, over the workload's arrivals.
    `tried`: (rate scale, whether it was met), in the order of trial."""

    rate_scale: float
    requests_per_s: float
    tried: tuple[tuple[float, bool], ...]


class Misses:
    """Gives a run up as soon as more requests have missed the objective than may, since no later one can mend that."""

    def __init__(self, bounds: SloBounds, allowed: int) -> None:
        self._bounds = bounds
        self._left = allowed

    def __call__(self, recorder: Recorder, index: int) -> bool:
        if not self._bounds.met_by(recorder, index):
            self._left -= 1
        return self._left < 0


def find_capacity(
    workload: Workload,
    fleet: Sequence[EngineSpec],
    policy: str,
    *,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    slo: Slo = Slo(),  # noqa: B008  (frozen)
    incidents: Sequence[Incident] = (),
    tried: Callable[[float, bool], None] | None = None,
) -> Capacity:
    """By doubling or halving from the workload's own rate, then by bisection of the logarithm, to within PRECISION.

    Deterministic. Runs above the capacity are cut short. `tried` is told of each trial.
    """
    trials: dict[float, bool] = {}
    allowed = len(workload.requests) - math.ceil(SHARE * len(workload.requests))

    def holds(scale: float) -> bool:
        at_scale = scaled(workload, scale)
        bounds = slo.bounds(at_scale, fleet)
        run = simulate(
            at_scale,
            fleet,
            policy,
            settings=settings,
            slo=slo,
            incidents=incidents,
            judge=Misses(bounds, allowed),
        )
        met = trials[scale] = not run.outcome.given_up and run.summary.goodput_ratio >= SHARE
        if tried is not None:
            tried(scale, met)
        return met

    best = _search(holds)
    span = max((request.at for request in workload.requests), default=0.0)
    rate = len(workload.requests) / span * best if span else 0.0
    return Capacity(best, rate, tuple(trials.items()))


def _search(holds: Callable[[float], bool]) -> float:
    low = high = 1.0
    if holds(1.0):
        while (high := 2.0 * low) <= HIGHEST and holds(high):
            low = high
        if high > HIGHEST:
            return low
    else:
        while (low := high / 2.0) >= LOWEST and not holds(low):
            high = low
        if low < LOWEST:
            return 0.0
    while high > low * (1.0 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
