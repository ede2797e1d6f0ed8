"""The search for the highest rate."""

from __future__ import annotations

import pytest

from llmgate.sim.capacity import HIGHEST, LOWEST, PRECISION, find_capacity
from llmgate.sim.run import simulate
from llmgate.sim.slo import parse_slo
from llmgate.workloads import scaled
from tests.sim.make import fleet, steady


def test_the_capacity_is_met_and_a_little_more_is_not() -> None:
    load, slo = steady(300, 0.5, prompt=4000, output=50), parse_slo("ttft=1s")
    found = find_capacity(load, fleet(2), "least-connections", slo=slo)
    share = {
        scale: simulate(scaled(load, scale), fleet(2), "least-connections", slo=slo).summary.goodput_ratio
        for scale in (found.rate_scale, found.rate_scale * (1.0 + PRECISION))
    }
    assert [ratio >= 0.9 for ratio in share.values()] == [True, False]
    assert found.requests_per_s == pytest.approx(found.rate_scale * 2.0, rel=0.01)
    assert dict(found.tried)[found.rate_scale]
    assert found == find_capacity(load, fleet(2), "least-connections", slo=slo)


def test_an_objective_that_nothing_meets_has_no_capacity_and_one_that_all_meet_the_highest_looked_for() -> None:
    load = steady(10, 1.0)
    none = find_capacity(load, fleet(1), "random", slo=parse_slo("ttft=1ms"))
    assert none.rate_scale == 0.0
    assert min(scale for scale, _ in none.tried) == LOWEST
    assert find_capacity(load, fleet(1), "random", slo=parse_slo("ttft=1h")).rate_scale == HIGHEST
