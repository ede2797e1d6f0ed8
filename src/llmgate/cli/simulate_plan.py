"""What `llmgate simulate` was asked for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmgate.engines.spec import parse_specs
from llmgate.sim.capacity import Capacity, find_capacity
from llmgate.sim.incidents import check_targets, parse_incident
from llmgate.sim.policies import EVERY, every_name, make_router
from llmgate.sim.run import PolicyRun, check_models, fitted, simulate
from llmgate.sim.settings import SCRAPE_LATENCY, Settings
from llmgate.sim.slo import parse_slo
from llmgate.sim.study import PolicyResult, Study
from llmgate.workloads import Workload, load_text, parse, scaled, synthetic

Say = Callable[[str], None]
"""Told of what is being done."""


class Plan:
    """From the command's options. ValueError, WorkloadError and OSError say in one sentence what is wrong."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._fleet = parse_specs(given["engines"])
        named = (each for name in given["policies"] for each in (every_name() if name == EVERY else [name]))
        self.policies = list(dict.fromkeys(named))
        for policy in self.policies:
            make_router(policy)  # a mistake in the last one is told before the first one runs
        self._slo = parse_slo(given["slo"])
        if not 0.001 <= given["rate_scale"] <= 1000.0:
            raise ValueError(f"--rate-scale must be from 0.001 to 1000, not {given['rate_scale']:g}")
        self._incidents = [parse_incident(text) for text in given["incidents"]]
        check_targets(self._incidents, [spec.name for spec in self._fleet])
        self.seeds = range(given["seed"], given["seed"] + given["seeds"])
        self._settings(self.seeds[0])
        self._loaded = (self.seeds[0], self._load(self.seeds[0]))
        self._dropped = dict(self._loaded[1].dropped)
        self.total = len(self._loaded[1].requests) * len(self.policies) * len(self.seeds)

    def run(self, say: Say, progress: Callable[[int], None], policy: str, seed: int) -> PolicyRun:
        say(f"{policy}, seed {seed}" if len(self.seeds) > 1 else policy)
        return simulate(
            scaled(self._workload(seed), self._given["rate_scale"]),
            self._fleet,
            policy,
            settings=self._settings(seed),
            slo=self._slo,
            incidents=self._incidents,
            progress=progress,
        )

    def capacity(self, say: Say, policy: str, seed: int) -> Capacity:
        """By the workload's own rate, whatever `--rate-scale` is."""
        say(f"capacity of {policy}")
        return find_capacity(
            self._workload(seed),
            self._fleet,
            policy,
            settings=self._settings(seed),
            slo=self._slo,
            incidents=self._incidents,
            tried=lambda scale, met: say(f"capacity of {policy}: × {scale:.3g} {'holds' if met else 'is too much'}"),
        )

    def study(self, results: tuple[PolicyResult, ...]) -> Study:
        given = self._given
        return Study(
            workload=given["trace"] or given["workload"],
            fleet=tuple(self._fleet),
            engines=given["engines"],
            slo=self._slo,
            rate_scale=given["rate_scale"],
            seeds=tuple(self.seeds),
            dropped=self._dropped,
            incidents=tuple(given["incidents"]),
            policies=results,
        )

    def _settings(self, seed: int) -> Settings:
        period = self._given["scrape_period"]
        return Settings(
            seed,
            self._given["estimate_error"],
            period,
            min(SCRAPE_LATENCY, period / 2),
            kv_events=self._given["kv_events"],
        )

    def _workload(self, seed: int) -> Workload:
        """One at a time is kept: seeds are run one after another."""
        if self._loaded[0] != seed:
            self._loaded = (seed, self._load(seed))
        return self._loaded[1]

    def _load(self, seed: int) -> Workload:
        given = self._given
        if given["trace"] is not None:
            workload = load_text(given["trace"], seed=seed, skip_bad=given["skip_bad"])
        else:
            name, options = parse(given["workload"])
            workload = synthetic(name, seed=seed, **options)
        check_models(workload, self._fleet)
        workload = fitted(workload, self._fleet)
        if not workload.requests:
            why = "; ".join(f"{count} were left out: {reason}" for reason, count in workload.dropped.items())
            raise ValueError(f"the workload has no request that can be simulated{f' ({why})' if why else ''}")
        return workload
