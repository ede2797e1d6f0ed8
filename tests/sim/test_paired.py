from __future__ import annotations

import math

import pytest

from llmgate.sim.paired import difference, t_quantile


def test_an_interval_is_the_student_t_one_of_the_differences() -> None:
    found = difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # differences 1, 2, 3: mean 2, deviation 1
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3))
    assert found.low == pytest.approx(4.0 - found.high)
    assert not found.clear


def test_what_a_seed_does_to_both_is_taken_out() -> None:
    found = difference([11.0, 101.0, 1001.0], [10.0, 100.0, 1000.0])
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.clear


def test_one_seed_has_no_interval() -> None:
    found = difference([2.0], [1.0])
    assert found.mean == 1.0
    assert math.isnan(found.low)
    assert not found.clear


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980)])
def test_quantiles_agree_with_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=0.001)
