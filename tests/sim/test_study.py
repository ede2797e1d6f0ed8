"""Several policies side by side."""

from __future__ import annotations

import json

import pytest

from llmgate.sim.capacity import Capacity
from llmgate.sim.run import PolicyRun, simulate
from llmgate.sim.settings import Settings
from llmgate.sim.slo import Slo
from llmgate.sim.study import COMPARED, Study, run_study
from tests.sim.make import conversations, fleet

POLICIES = ("round-robin", "prefix-affinity")


def study(*seeds: int, capacities: bool = False) -> Study:
    def run(policy: str, seed: int) -> PolicyRun:
        return simulate(conversations(10), fleet(), policy, settings=Settings(seed))

    def capacity(policy: str, seed: int) -> Capacity:
        return Capacity(2.0 + seed, 10.0, ())

    results = run_study(POLICIES, seeds, run, capacity if capacities else None)
    return Study("w", tuple(fleet()), "2xh100:m", Slo(), 1.0, seeds, {"too long": 3}, (), results)


def test_the_json_has_what_the_contract_names() -> None:
    made = json.loads(json.dumps(study(0).as_json(), allow_nan=False))
    assert list(made["policies"]) == list(POLICIES)
    for figures in made["policies"].values():
        for latency in ("ttft", "tpot", "e2e"):
            assert {"mean", "p50", "p90", "p95", "p99"} <= figures[latency].keys()
        assert {"prefix_hit_ratio", "tokens_per_s", "goodput_ratio", "requests", "failed"} <= figures.keys()
        assert (figures["requests"], figures["failed"]) == (40, 0)
    assert made["dropped"] == {"too long": 3}


def test_figures_are_means_over_seeds_with_differences_to_the_first_policy() -> None:
    made = study(0, 1, 2, capacities=True)
    first, second = made.policies
    figures = made.as_json()["policies"]["prefix-affinity"]
    ttfts = second.by_seed("ttft.mean")
    assert figures["ttft"]["mean"] == pytest.approx(sum(ttfts) / 3)
    difference = figures["difference"]["ttft.mean"]
    assert difference["mean"] == pytest.approx(second.mean("ttft.mean") - first.mean("ttft.mean"))
    assert figures["difference"].keys() == {*COMPARED, "capacity"}
    assert figures["capacity"]["rate_scale"] == 3.0
    assert len(figures["by_seed"]) == 3
