"""Whether an endpoint may be given work: active probes with consecutive thresholds, and a circuit breaker.

Draining is not a health state: it lives on the endpoint. Every change of state is made in `_enter`.

    STARTING ──probe ok──▶ UP ──`fall` probes fail──▶ DOWN ──`rise` probes ok──▶ UP
                           │
                           ├─ `strikes` requests fail in a row, or one connection is refused ─▶ EJECTED
    any ──`hold`──▶ DOWN, and probes count only after `release`
    EJECTED ──`eject_seconds` over──▶ HALF_OPEN ──its one trial request succeeds──▶ UP
                                                └─fails──▶ EJECTED
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from llmgate.core.types import Verdict


class State(enum.Enum):
    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """Thresholds. `rise` and `fall` are HAProxy's defaults; the breaker's are the public contract's.

    `slow_start` is for the pool: seconds until an endpoint that takes requests again has its full weight; 0 is at once.
    """

    rise: int = 2
    fall: int = 3
    strikes: int = 3
    eject_seconds: float = 30.0
    slow_start: float = 0.0


def _ignore() -> None:
    pass


class Health:
    """The state of one endpoint. `changed` is called after every change of what `available` says."""

    __slots__ = (
        "_changed",
        "_failed_probes",
        "_held",
        "_passed_probes",
        "_policy",
        "_strikes",
        "_unreachable",
        "entered",
        "reason",
        "state",
        "times",
        "trial_open",
        "until",
    )

    def __init__(self, policy: HealthPolicy = HealthPolicy(), changed: Callable[[], None] = _ignore) -> None:
        self._policy = policy
        self._changed = changed
        self.entered = 0  # changes of state so far: tells one half-open time, or one time up, from another
        self.times = dict.fromkeys(State, 0)  # that each state was entered
        self.times[State.STARTING] = 1
        self._passed_probes = 0
        self._failed_probes = 0
        self._strikes = 0
        self._unreachable = False
        self._held = False
        self.state = State.STARTING
        self.reason = "not probed yet"
        self.until = 0.0  # end of the ejection, while EJECTED
        self.trial_open = False  # a HALF_OPEN endpoint's one request is under way

    @property
    def available(self) -> bool:
        """May be given a request now."""
        return self.state is State.UP or (self.state is State.HALF_OPEN and not self.trial_open)

    @property
    def last_resort(self) -> bool:
        """Ejected for bad answers, yet reachable: better than nothing when no other endpoint is left."""
        return self.state in (State.EJECTED, State.HALF_OPEN) and not self._unreachable

    def probe_passed(self) -> None:
        if self._held:
            return
        self._failed_probes = 0
        self._passed_probes += 1
        if self.state is State.STARTING or (
            self._passed_probes >= self._policy.rise
            # a probe that connects disproves "unreachable", but says nothing about failing answers
            and (self.state is State.DOWN or (self.state is State.EJECTED and self._unreachable))
        ):
            self._enter(State.UP, "")

    def probe_failed(self, reason: str, *, certain: bool = False) -> None:
        """`certain`: the engine itself says that it serves nothing, so no further probe need confirm it."""
        self._passed_probes = 0
        self._failed_probes += 1
        if self.state in (State.STARTING, State.DOWN):
            self.reason = reason
        elif certain or self._failed_probes >= self._policy.fall:
            self._enter(State.DOWN, reason)

    def hold(self, reason: str) -> None:
        """Something else than its own answers says that it must get nothing, whatever they say, until `release`."""
        self._held = True
        self._passed_probes = 0
        if self.state is State.DOWN:
            self.reason = reason
        else:
            self._enter(State.DOWN, reason)

    def release(self) -> None:
        """Probes may bring it up again."""
        self._held = False

    def begin_request(self) -> int:
        """A request is booked. Above 0 it is the half-open trial, and `request_ended` must be given that number."""
        if self.state is not State.HALF_OPEN or self.trial_open:
            return 0
        self.trial_open = True
        self._changed()
        return self.entered

    def request_ended(self, verdict: Verdict, now: float, *, trial: int, reason: str = "") -> None:
        """Learn from one finished attempt. Requests that began before an ejection say nothing about its end, and the
        trial of an earlier half-open time says nothing about this one."""
        if trial == self.entered and self.state is State.HALF_OPEN:
            self.trial_open = False
            if verdict is Verdict.GOOD:
                self._enter(State.UP, "")
            elif verdict is Verdict.NEUTRAL:
                self._changed()
            else:
                self._eject(verdict, now, reason)
        elif self.state is State.UP:
            if verdict is Verdict.GOOD:
                self._strikes = 0
            elif verdict is Verdict.BAD:
                self._strikes += 1
                if self._strikes >= self._policy.strikes:
                    self._eject(verdict, now, reason)
            elif verdict is Verdict.UNREACHABLE:
                self._eject(verdict, now, reason)

    def follow(self, policy: HealthPolicy) -> None:
        """Other thresholds from now on; the state and what was counted stay."""
        self._policy = policy

    def tick(self, now: float) -> None:
        """Let time pass: an ejection that is over becomes half-open."""
        if self.state is State.EJECTED and now >= self.until:
            self._enter(State.HALF_OPEN, self.reason)

    def _eject(self, verdict: Verdict, now: float, reason: str) -> None:
        self._unreachable = verdict is Verdict.UNREACHABLE
        self.until = now + self._policy.eject_seconds
        self._passed_probes = 0  # only probes from now on may lift it
        self._enter(State.EJECTED, reason)

    def _enter(self, state: State, reason: str) -> None:
        self.state = state
        self.entered += 1
        self.times[state] += 1
        self.reason = reason
        self.trial_open = False
        if state is State.UP:
            self._strikes = 0
            self._unreachable = False
        self._changed()
