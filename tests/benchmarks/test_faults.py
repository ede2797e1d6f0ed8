"""The fault benchmark's short versions: real processes, real signals, and nobody is let down."""

from __future__ import annotations

import pytest

from benchmarks.faults.__main__ import RUNS, failed, main
from benchmarks.faults.client import Outcome
from benchmarks.faults.names import available
from benchmarks.faults.report import markdown, slope

REQUESTS = {"faults": 16_000, "leaving": 3_000, "rolling": 4_000}
"""Some seconds of each: one turn of most faults, one gateway replaced and more."""


@pytest.mark.parametrize("name", RUNS)
async def test_no_request_is_lost_and_no_charge_stays_open(name: str) -> None:
    result = (await main([name], REQUESTS[name], 64, 1))[name]
    assert not failed(name, result), result
    assert result["requests sent"] == sum(int(result[each.value]) for each in Outcome) == REQUESTS[name]
    assert int(result[Outcome.ANSWERED.value]) > REQUESTS[name] // 3
    if name != "rolling":
        assert int(result[Outcome.LEFT.value]) > REQUESTS[name] // 10
        assert result["bytes of requests held at the end"] == 0
        assert result["requests in flight at the end"] == 0
        assert int(result["more file descriptors than before"]) <= 0
    else:
        assert int(result["gateways replaced under load"]) >= 1
    if name == "leaving":
        assert result["sent again, idle connection closed"] == 0
    if name == "faults":
        assert int(result["engine killed and restarted, times"]) >= 1
        if available():
            assert int(result["engine moved, its name with it, times"]) >= 1


@pytest.mark.parametrize("figure", [Outcome.LOST.value, Outcome.REFUSED.value, Outcome.BROKEN.value])
def test_a_request_that_fails_for_no_reason_fails_the_run(figure: str) -> None:
    assert failed("rolling", {figure: 1, "exit code": 0})
    assert not failed("rolling", {figure: 0, "exit code": 0})


def test_faults_may_break_answers_but_lose_none() -> None:
    assert not failed("faults", {Outcome.BROKEN.value: 5, Outcome.REFUSED.value: 5, "exit code": 0})
    assert failed("faults", {Outcome.LOST.value: 1, "exit code": 0})
    assert failed("faults", {"charges open at the end": 1, "exit code": 0})
    assert failed("faults", {"exit code": -9})


def test_the_slope_is_of_the_second_half() -> None:
    mib = 1024 * 1024
    samples = [(0, 0), (10_000, 90 * mib), (20_000, 100 * mib), (30_000, 101 * mib)]
    assert slope(samples) == pytest.approx(10.0)
    assert slope(samples[:2]) == 0.0


def test_the_table_has_a_column_for_each_run() -> None:
    table = markdown({"a": {"x": 1}, "b": {"x": 2, "y": 3}})
    assert table == "| | a | b |\n|---|---|---|\n| x | 1 | 2 |\n| y | – | 3 |\n"
