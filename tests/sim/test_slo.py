"""Objectives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmgate.sim.record import Recorder
from llmgate.sim.slo import Slo, idle_prefills, parse_slo
from tests.sim.make import fleet, request, workload


def test_an_objective_is_relative_or_bounds_or_both() -> None:
    assert parse_slo("relative") == Slo()
    assert parse_slo("ttft=2s,tpot=50ms") == Slo(False, 2.0, 0.05)
    assert parse_slo("relative, e2e=1m") == Slo(True, e2e=60.0)
    assert str(parse_slo("relative,tpot=50ms")) == "relative,tpot=0.05s"


@pytest.mark.parametrize("text", ["", "ttft", "ttft=0", "ttft=soon", "itl=2s", "ttft=1s,ttft=2s", "relative=2"])
def test_what_is_no_objective_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no objective|is no time|must be above 0"):
        parse_slo(text)


def test_the_relative_bound_is_twice_the_idle_prefill_and_no_less_than_two_seconds() -> None:
    load = workload(request(prompt=1000), request(prompt=40_960))
    idle = idle_prefills(load, fleet())
    assert idle == pytest.approx([0.01 + 0.1, 20 * 0.01 + 4.096])
    assert Slo().bounds(load, fleet()).ttft == pytest.approx([2.0, 2 * idle[1]])


def test_the_fastest_engine_of_the_model_sets_the_idle_prefill() -> None:
    mixed = [*fleet(1), *fleet(1, prefill_token_s=1e-3), *fleet(1, model="other", prefill_token_s=1e-9)]
    assert idle_prefills(workload(request(prompt=1000)), mixed) == pytest.approx([0.11])


def recorder() -> Recorder:
    """One of 10 tokens that met all, one that began late, one that was slow, one that failed, one never sent."""
    made = Recorder([100] * 5, [11] * 5)
    made.arrived[:4] = [0.0, 0.0, 0.0, 0.0]
    made.first_token[:4] = [0.5, 1.5, 0.5, math.nan]
    made.ended[:4] = [1.0, 2.0, 3.0, 1.0]
    made.ok[:3] = [True, True, True]
    return made


def test_who_met_an_objective_is_told_one_by_one_as_for_all() -> None:
    made = recorder()
    bounds = parse_slo("ttft=1s,tpot=100ms").bounds(workload(*[request()] * 5), fleet())
    met = bounds.met(made.table())
    assert met.tolist() == [True, False, False, False, False]
    assert [bounds.met_by(made, index) for index in range(5)] == met.tolist()


def test_latencies_are_of_completed_requests() -> None:
    table = recorder().table()
    assert table.ttft == pytest.approx([0.5, 1.5, 0.5])
    assert table.e2e == pytest.approx([1.0, 2.0, 3.0])
    assert np.allclose(table.tpot, [0.05, 0.05, 0.25])
