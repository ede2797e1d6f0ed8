from __future__ import annotations

import pytest

from llmgate.core.errors import ConnectFailed, ConnectionLost, FirstByteTimeout, UpstreamError
from llmgate.core.retry import RetryBudget, RetryPolicy, may_try_next

POLICY = RetryPolicy(max_attempts=3, ratio=0.2, floor=10.0, burst=10.0)
LOST: UpstreamError = ConnectionLost("reset")


def allowed(failure: UpstreamError | int, attempts: int = 1, budget: RetryBudget | None = None) -> bool:
    return may_try_next(failure, attempts=attempts, policy=POLICY, budget=budget or RetryBudget(POLICY), now=0.0)


def empty_budget() -> RetryBudget:
    budget = RetryBudget(POLICY)
    while budget.withdraw(0.0):
        pass
    return budget


def test_what_was_never_sent_may_always_go_elsewhere() -> None:
    assert allowed(ConnectFailed("refused"), attempts=50, budget=empty_budget())


def test_a_lost_connection_is_bounded_by_attempts_only() -> None:
    assert allowed(LOST, attempts=2, budget=empty_budget())
    assert not allowed(LOST, attempts=3)


@pytest.mark.parametrize("failure", [429, 500, 502, 503, 504, FirstByteTimeout("slow")])
def test_a_retry_that_adds_work_needs_attempts_and_budget(failure: UpstreamError | int) -> None:
    assert allowed(failure)
    assert not allowed(failure, attempts=3)
    assert not allowed(failure, budget=empty_budget())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 501])
def test_other_answers_are_never_retried(status: int) -> None:
    assert not allowed(status)


def test_the_budget_is_paid_by_time_and_by_requests() -> None:
    budget = empty_budget()
    for _ in range(4):
        budget.note_request()
    assert not budget.withdraw(0.0)
    budget.note_request()
    assert budget.withdraw(0.0)
    assert [budget.withdraw(0.25) for _ in range(3)] == [True, True, False]


def test_the_budget_saves_up_no_more_than_its_burst() -> None:
    budget = RetryBudget(POLICY)
    for _ in range(100_000):
        budget.note_request()
    assert sum(budget.withdraw(1e9) for _ in range(1000)) == POLICY.burst
