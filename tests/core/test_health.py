"""The health machine: thresholds, ejection, and never more than one trial of a half-open endpoint."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmgate.core.health import Health, HealthPolicy, State
from llmgate.core.types import Verdict
from tests.core.make import state

POLICY = HealthPolicy(rise=2, fall=3, strikes=3, eject_seconds=30.0)


def up() -> Health:
    health = Health(POLICY)
    health.probe_passed()
    return health


class HealthMachine(RuleBasedStateMachine):
    """Any mix of probes, requests and time."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.health = Health(POLICY, self.changed)
        self.now = 0.0
        self.last_available = self.health.available
        self.trials: list[int] = []  # of the requests under way, what begin_request said
        self.unannounced = False

    def changed(self) -> None:
        self.last_available = self.health.available

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.health.tick(self.now)

    @rule(passed=st.booleans())
    def probe(self, passed: bool) -> None:
        if passed:
            self.health.probe_passed()
        else:
            self.health.probe_failed("it did not answer")

    @precondition(lambda self: self.health.available or self.health.last_resort)
    @rule()
    def request_begins(self) -> None:
        self.trials.append(self.health.begin_request())

    @precondition(lambda self: self.trials)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def request_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        trial = self.trials.pop(data.draw(st.integers(0, len(self.trials) - 1)))
        before = self.health.state
        self.health.request_ended(verdict, self.now, trial=trial)
        if before is State.DOWN or before is State.STARTING:
            assert self.health.state is before, "requests do not lift what probes decided"
        if before is State.EJECTED:
            assert self.health.state is before, "requests from before an ejection do not end it"

    @invariant()
    def available_means_up_or_an_untaken_trial(self) -> None:
        health = self.health
        assert health.available == (
            health.state is State.UP or (health.state is State.HALF_OPEN and not health.trial_open)
        )
        assert not (health.available and health.state in (State.DOWN, State.EJECTED, State.STARTING))

    @invariant()
    def a_trial_is_open_as_long_as_its_own_request(self) -> None:
        assert self.health.trial_open == (self.health.state is State.HALF_OPEN and self.health.entered in self.trials)

    @invariant()
    def every_change_of_availability_was_announced(self) -> None:
        assert self.last_available == self.health.available

    @invariant()
    def an_ejection_ends_in_time(self) -> None:
        if self.health.state is State.EJECTED:
            assert self.now < self.health.until <= self.now + POLICY.eject_seconds


TestHealth = HealthMachine.TestCase


def test_the_first_good_probe_brings_an_endpoint_up() -> None:
    health = Health(POLICY)
    assert not health.available
    health.probe_passed()
    assert health.available


def test_only_consecutive_failures_bring_it_down() -> None:
    health = up()
    for _ in range(3):
        health.probe_failed("x")
        health.probe_failed("x")
        health.probe_passed()
    assert state(health) is State.UP
    for _ in range(3):
        health.probe_failed("refused")
    assert (health.state, health.reason) == (State.DOWN, "refused")


def test_down_needs_consecutive_good_probes() -> None:
    health = up()
    for _ in range(3):
        health.probe_failed("x")
    health.probe_passed()
    assert state(health) is State.DOWN
    health.probe_passed()
    assert state(health) is State.UP


def test_a_refused_connection_ejects_at_once_and_good_probes_lift_it() -> None:
    health = up()
    health.request_ended(Verdict.UNREACHABLE, 10.0, trial=0)
    assert state(health) is State.EJECTED
    health.probe_passed()
    health.probe_passed()
    assert state(health) is State.UP


def test_only_probes_after_an_ejection_lift_it() -> None:
    health = up()
    for _ in range(5):
        health.probe_passed()
    health.request_ended(Verdict.UNREACHABLE, 10.0, trial=0)
    health.probe_passed()
    assert state(health) is State.EJECTED
    health.probe_passed()
    assert state(health) is State.UP


def test_bad_answers_eject_after_three_in_a_row_and_good_probes_do_not_lift_it() -> None:
    health = up()
    for verdict in (Verdict.BAD, Verdict.BAD, Verdict.GOOD, Verdict.BAD, Verdict.BAD):
        health.request_ended(verdict, 10.0, trial=0)
    assert state(health) is State.UP
    health.request_ended(Verdict.BAD, 10.0, trial=0)
    assert state(health) is State.EJECTED
    for _ in range(5):
        health.probe_passed()
    assert state(health) is State.EJECTED
    health.tick(39.9)
    assert state(health) is State.EJECTED
    health.tick(40.0)
    assert state(health) is State.HALF_OPEN


def half_open() -> Health:
    health = up()
    for _ in range(3):
        health.request_ended(Verdict.BAD, 0.0, trial=0)
    health.tick(30.0)
    return health


def test_half_open_admits_one_trial() -> None:
    health = half_open()
    assert health.available
    assert health.begin_request()
    assert not health.available
    assert not health.begin_request(), "a second request is no trial"


def test_the_trial_decides() -> None:
    good, bad, neutral = half_open(), half_open(), half_open()
    for health, verdict in ((good, Verdict.GOOD), (bad, Verdict.BAD), (neutral, Verdict.NEUTRAL)):
        trial = health.begin_request()
        assert trial
        health.request_ended(verdict, 31.0, trial=trial)
    assert state(good) is State.UP
    assert (bad.state, bad.until) == (State.EJECTED, 61.0)
    assert neutral.available, "a client that left says nothing: the next request is the trial"


def test_neutral_verdicts_change_nothing() -> None:
    health = up()
    for _ in range(100):
        health.request_ended(Verdict.NEUTRAL, 0.0, trial=0)
    assert state(health) is State.UP


def test_the_end_of_an_earlier_trial_says_nothing_about_a_later_one() -> None:
    health = half_open()
    earlier = health.begin_request()
    for _ in range(3):
        health.probe_failed("x")
    for _ in range(2):
        health.probe_passed()
    for _ in range(3):
        health.request_ended(Verdict.BAD, 40.0, trial=0)
    health.tick(70.0)
    later = health.begin_request()
    assert later
    for verdict in (Verdict.NEUTRAL, Verdict.BAD, Verdict.GOOD):
        health.request_ended(verdict, 71.0, trial=earlier)
        assert state(health) is State.HALF_OPEN
        assert not health.available


def test_an_engine_that_says_so_itself_is_down_at_once_and_the_last_reason_counts() -> None:
    health = up()
    health.probe_failed("asleep", certain=True)
    assert (health.state, health.reason) == (State.DOWN, "asleep")
    health.probe_failed("refused")
    assert (health.state, health.reason) == (State.DOWN, "refused")
