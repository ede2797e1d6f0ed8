"""What is refused at the gate, and why."""

from __future__ import annotations

import pytest

from llmgate.core.errors import Overloaded
from llmgate.gateway.gate import Gate, Limits

LATE = 0.2


def test_a_request_that_is_one_too_many_is_told_so() -> None:
    gate = Gate(Limits(in_flight=2))
    gate.in_flight = {1, 2}  # it is one of them
    gate.check(0)
    gate.in_flight = {1, 2, 3}
    with pytest.raises(Overloaded) as caught:
        gate.check(0)
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("overloaded_requests", 503, 1)


def test_an_announced_body_counts_before_it_comes() -> None:
    gate = Gate(Limits(buffered=100))
    gate.buffered = 60
    gate.check(40)
    with pytest.raises(Overloaded) as caught:
        gate.check(41)
    assert caught.value.code == "overloaded_memory"


def test_a_surplus_connection_gets_nothing_served() -> None:
    gate = Gate(Limits()).surplus()
    assert gate.most_in_flight == 0
    assert gate.refusal(0).code == "overloaded_connections"


def test_one_late_beat_sheds_nothing_two_in_a_row_do_until_one_is_in_time() -> None:
    gate = Gate(Limits(in_flight=10, lag=0.1))
    most = []
    for lag in (3600, 0, LATE, LATE, LATE, 0.1, LATE):
        gate.loop_was_late(lag)
        most.append(gate.most_in_flight)
    assert most == [10, 10, 10, 0, 0, 10, 10]


def test_shedding_says_why() -> None:
    gate = Gate(Limits(lag=0.1))
    gate.loop_was_late(LATE)
    gate.loop_was_late(LATE)
    assert gate.refusal(0).code == "overloaded_loop"


def test_without_a_bound_no_lag_sheds() -> None:
    gate = Gate(Limits(in_flight=10))
    gate.loop_was_late(3600)
    gate.loop_was_late(3600)
    assert gate.most_in_flight == 10


def test_other_limits_hold_from_the_next_request_on_and_do_not_end_shedding() -> None:
    gate = Gate(Limits(in_flight=10, lag=0.1))
    gate.loop_was_late(LATE)
    gate.loop_was_late(LATE)
    gate.limits = Limits(in_flight=20, lag=0.1)
    assert gate.most_in_flight == 0
    gate.loop_was_late(0)
    assert gate.most_in_flight == 20
