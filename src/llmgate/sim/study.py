"""Several policies, side by side, on the same workloads."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmgate.engines.spec import EngineSpec
from llmgate.sim.capacity import Capacity
from llmgate.sim.paired import Difference, difference
from llmgate.sim.run import PolicyRun
from llmgate.sim.slo import Slo
from llmgate.sim.summary import as_json

COMPARED = (
    *(f"{time}.{part}" for time in ("ttft", "tpot", "e2e") for part in ("mean", "p50", "p90", "p95", "p99")),
    "prefix_hit_ratio",
    "tokens_per_s",
    "goodput_ratio",
    "imbalance",
)
"""Figures of which differences to the first policy are given."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy over all seeds."""

    policy: str
    runs: tuple[PolicyRun, ...]  # by seed
    capacities: tuple[Capacity, ...] = ()  # by seed; empty if they were not asked for

    def by_seed(self, figure: str) -> list[float]:
        """A figure's value with each seed; `figure` as Summary.figures has it, or `capacity`: a rate scale."""
        if figure == "capacity":
            return [capacity.rate_scale for capacity in self.capacities]
        return [run.summary.figures()[figure] for run in self.runs]

    def failures(self) -> dict[str, int]:
        """Reason → requests, of all seeds together."""
        counted: Counter[str] = Counter()
        for run in self.runs:
            counted.update(run.outcome.failures)
        return dict(counted)

    def mean(self, figure: str) -> float:
        """Over seeds."""
        return statistics.fmean(self.by_seed(figure))


@dataclass(frozen=True, slots=True)
class Study:
    """What was simulated, and what came of it. `policies[0]` is what the others are compared to."""

    workload: str
    fleet: tuple[EngineSpec, ...]
    engines: str  # the fleet's specification, as given
    slo: Slo
    rate_scale: float
    seeds: tuple[int, ...]
    dropped: dict[str, int]  # of the workload: reason → requests
    incidents: tuple[str, ...]
    policies: tuple[PolicyResult, ...]

    def difference(self, policy: PolicyResult, figure: str) -> Difference:
        """Of a figure, to the first policy, paired by seed."""
        return difference(policy.by_seed(figure), self.policies[0].by_seed(figure))

    def as_json(self) -> dict[str, Any]:
        """What `--json` writes: figures are means over the seeds; seconds throughout."""
        return {
            "workload": self.workload,
            "engines": self.engines,
            "slo": str(self.slo),
            "rate_scale": self.rate_scale,
            "seeds": list(self.seeds),
            "dropped": self.dropped,
            "incidents": list(self.incidents),
            "policies": {result.policy: as_json(self._of(result)) for result in self.policies},
        }

    def _of(self, result: PolicyResult) -> dict[str, Any]:
        figures = _nested({name: result.mean(name) for name in result.runs[0].summary.figures()})
        for name in ("requests", "failed", "retried", "preemptions"):  # whole numbers, unless seeds differ
            figures[name] = int(figures[name]) if figures[name] == int(figures[name]) else figures[name]
        figures["failures"] = result.failures()
        if result.capacities:
            figures["capacity"] = {
                "rate_scale": result.mean("capacity"),
                "requests_per_s": statistics.fmean(each.requests_per_s for each in result.capacities),
            }
        if len(self.seeds) > 1:
            figures["by_seed"] = [asdict(run.summary) for run in result.runs]
            compared = (*COMPARED, "capacity") if result.capacities else COMPARED
            figures["difference"] = {name: asdict(self.difference(result, name)) for name in compared}
        return figures


def run_study(
    policies: Sequence[str],
    seeds: Sequence[int],
    run: Callable[[str, int], PolicyRun],
    capacity: Callable[[str, int], Capacity] | None,
) -> tuple[PolicyResult, ...]:
    """Every policy with every seed, one seed after another: `run` and `capacity` may keep a seed's workload."""
    runs: dict[str, list[PolicyRun]] = {policy: [] for policy in policies}
    capacities: dict[str, list[Capacity]] = {policy: [] for policy in policies}
    for seed in seeds:
        for policy in policies:
            runs[policy].append(run(policy, seed))
            if capacity is not None:
                capacities[policy].append(capacity(policy, seed))
    return tuple(PolicyResult(policy, tuple(runs[policy]), tuple(capacities[policy])) for policy in policies)


def _nested(figures: dict[str, float]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in figures.items():
        group, dot, part = name.partition(".")
        if dot:
            nested.setdefault(group, {})[part] = value
        else:
            nested[group] = value
    return nested
