"""May a failed attempt go to another endpoint? A pure decision, and the budget behind it.

Only before the first byte has gone to the client, and never to an endpoint already tried: the caller sees to both.
Three classes:

- never sent (the connection could not be made): always, there was no work;
- lost before the answer began (the engine died, its work died with it): within `max_attempts`;
- answered 429/5xx or timed out (the engine lives, a retry adds work): within `max_attempts` and the budget, so that a
  fleet that is overloaded as a whole is not given its load several times over.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmgate.core.errors import ConnectionLost, UpstreamError

RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
BUSY_STATUSES = frozenset({429, 503, 529})  # the last: "site is overloaded", of Dynamo and some hosted APIs
"""The engine is full, not broken: another endpoint may have room, and its health is not in question."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`ratio` and `floor` are those of linkerd's retry budget: a fifth of the requests plus 10 a second."""

    max_attempts: int = 3
    ratio: float = 0.2  # retries that each request pays for
    floor: float = 10.0  # retries that each second pays for
    burst: float = 100.0  # retries that may be saved up


class RetryBudget:
    """A token bucket: requests and time pay in, a retry takes one out. It starts full."""

    __slots__ = ("_balance", "_paid_at", "policy")

    def __init__(self, policy: RetryPolicy = RetryPolicy()) -> None:
        self.policy = policy
        self._balance = policy.burst
        self._paid_at = 0.0

    def note_request(self) -> None:
        self._balance = min(self._balance + self.policy.ratio, self.policy.burst)

    def withdraw(self, now: float) -> bool:
        """Take one retry out; False if there is none."""
        earned = max(now - self._paid_at, 0.0) * self.policy.floor
        self._balance = min(self._balance + earned, self.policy.burst)
        self._paid_at = now
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


def may_try_next(
    failure: UpstreamError | int, *, attempts: int, policy: RetryPolicy, budget: RetryBudget, now: float
) -> bool:
    """`failure` is the error or the status that attempt number `attempts` (from 1) ended with."""
    if isinstance(failure, UpstreamError) and failure.never_sent:
        return True
    if attempts >= policy.max_attempts:
        return False
    if isinstance(failure, ConnectionLost):
        return True
    if isinstance(failure, int) and failure not in RETRYABLE_STATUSES:
        return False
    return budget.withdraw(now)
