from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmgate.core.engine_state import EngineState
from llmgate.core.latency import Line, Speed, prefill_work
from llmgate.core.types import InferenceRequest, Usage
from tests.core.make import endpoint, request

RATE = 1000.0  # tokens of work a second


def state() -> EngineState:
    return EngineState(Speed(Line(0.01, 1 / RATE)), Speed(Line(0.01, 0.001)))


def asked(tokens: int, *, stream: bool = True, cached: int = 0) -> InferenceRequest:
    made = request(tokens, 50)
    made.stream, made.cached_tokens = stream, cached
    return made


def seconds(tokens: int) -> float:
    return prefill_work(tokens, tokens) / RATE


class Learns(Speed):
    """Remembers what it was told, and learns nothing."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.told: list[tuple[float, float]] = []

    def learn(self, x: float, seconds: float, now: float) -> None:
        self.told.append((x, seconds))


def near(*pairs: tuple[float, float]) -> object:
    return [pytest.approx(pair) for pair in pairs]


class Watched:
    """An engine's state whose speeds stay as they are, with what was observed."""

    def __init__(self) -> None:
        self.prefill, self.step = Learns(Line(0.01, 1 / RATE)), Learns(Line(0.01, 0.001))
        self.state = EngineState(self.prefill, self.step)
        self.endpoint = endpoint()

    def answered(self, request: InferenceRequest, now: float) -> None:
        self.state.answered(request, self.endpoint, now)

    def finished(self, request: InferenceRequest, tokens: int, now: float) -> None:
        self.state.finished(request, self.endpoint, Usage(request.prompt_tokens, tokens), now)
        self.state.ended(request, now)


def test_prompts_are_computed_one_after_another() -> None:
    watched = Watched()
    watched.state.booked(asked(1000), 10.0)
    watched.state.booked(asked(500), 10.0)
    assert watched.state.busy_until == pytest.approx(10.0 + seconds(1000) + seconds(500))


def test_only_what_is_not_cached_is_work() -> None:
    watched = Watched()
    watched.state.booked(asked(1000, cached=900), 0.0)
    assert watched.state.busy_until == pytest.approx(prefill_work(100, 1000) / RATE)
    watched.state.booked(asked(1000, cached=1000), 0.0)
    assert watched.state.busy_until == pytest.approx((prefill_work(100, 1000) + prefill_work(1, 1000)) / RATE)


def test_lateness_counts_once_for_all_that_are_behind() -> None:
    watched = Watched()
    many = [asked(1000) for _ in range(4)]
    for each in many:
        watched.state.booked(each, 0.0)
    one = 2 * seconds(1000)  # it is half as fast as thought
    for done, each in enumerate(many, 1):
        watched.answered(each, done * one)
        assert watched.state.busy_until == pytest.approx(done * one + (4 - done) * seconds(1000))


def test_an_engine_that_is_faster_than_thought_is_idle_when_all_is_answered() -> None:
    watched = Watched()
    many = [asked(1000) for _ in range(4)]
    for each in many:
        watched.state.booked(each, 0.0)
    for done, each in enumerate(many, 1):
        watched.answered(each, 0.1 * done)
    assert watched.state.busy_until == pytest.approx(0.4)


def test_what_is_overdue_is_not_expected_to_take_its_time_again() -> None:
    watched = Watched()
    slow, behind = asked(1000), asked(1000)
    watched.state.booked(slow, 0.0)
    watched.state.booked(behind, 5.0)
    watched.answered(slow, 8.0)
    assert watched.state.busy_until == pytest.approx(8.0 + seconds(1000))
    assert watched.prefill.told == near((prefill_work(1000, 1000), 8.0)), "all of its time was observed"


def test_a_short_prompt_that_overtakes_leaves_the_long_one_ahead() -> None:
    watched = Watched()
    long, short = asked(10_000), asked(100)
    watched.state.booked(long, 0.0)
    watched.state.booked(short, 0.0)
    watched.answered(short, 0.2)
    assert watched.state.busy_until == pytest.approx(seconds(10_000))
    watched.answered(long, seconds(10_000))
    assert watched.state.busy_until == pytest.approx(seconds(10_000))


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_ends_unanswered_is_no_longer_ahead(stream: bool) -> None:
    watched = Watched()
    first, gone, last = asked(1000), asked(4000, stream=stream), asked(1000)
    for each in (first, gone, last):
        watched.state.booked(each, 0.0)
    watched.state.ended(gone, 0.5)
    assert watched.state.busy_until == pytest.approx(2 * seconds(1000))
    watched.answered(first, seconds(1000))
    watched.answered(last, 2 * seconds(1000))
    assert watched.state.busy_until == pytest.approx(2 * seconds(1000)), "those behind were expected sooner"


def test_when_all_has_ended_it_is_idle() -> None:
    watched = Watched()
    for _ in range(3):
        each = asked(50_000, stream=False)
        watched.state.booked(each, 0.0)
        watched.state.ended(each, 0.0)
    assert watched.state.busy_until <= 0.0
    assert watched.state.open_requests == 0


def test_what_is_not_streamed_says_nothing_of_prefill_but_of_steps() -> None:
    watched = Watched()
    whole = asked(1000, stream=False)
    watched.state.booked(whole, 0.0)
    watched.answered(whole, 5.0)
    watched.finished(whole, 101, 5.0)
    assert watched.prefill.told == []
    assert watched.step.told == near((0.0, (5.0 - seconds(1000)) / 100))


def test_work_that_is_not_streamed_is_observed_with_the_next_first_token() -> None:
    watched = Watched()
    hidden, seen = asked(1000, stream=False), asked(1000)
    watched.state.booked(hidden, 0.0)
    watched.state.booked(seen, 0.0)
    watched.answered(seen, 3.0)
    assert watched.prefill.told == near((2 * prefill_work(1000, 1000), 3.0))


def test_prompts_that_are_answered_at_once_are_observed_as_one() -> None:
    watched = Watched()
    many = [asked(100) for _ in range(3)]
    for each in many:
        watched.state.booked(each, 0.0)
    watched.answered(many[0], 1.0)
    watched.answered(many[1], 1.0)
    watched.answered(many[2], 2.0)
    one = prefill_work(100, 100)
    assert watched.prefill.told == near((one, 1.0), (2 * one, 1.0))


def test_idle_time_is_no_time_of_prefill() -> None:
    watched = Watched()
    for at in (0.0, 1000.0):
        each = asked(1000)
        watched.state.booked(each, at)
        watched.answered(each, at + 1.0)
        watched.finished(each, 50, at + 2.0)
    assert [took for _, took in watched.prefill.told] == pytest.approx([1.0, 1.0])


def test_a_step_is_learnt_from_the_answers_tokens_less_the_prompts_computed_meanwhile() -> None:
    watched = Watched()
    mine, other = asked(1000), asked(1000)
    watched.state.booked(mine, 0.0)
    watched.answered(mine, seconds(1000))
    began = seconds(1000)
    watched.state.booked(other, began + 1.0)
    watched.answered(other, began + 1.0 + seconds(1000))
    watched.finished(mine, 101, began + 4.0)
    assert watched.step.told == near((0.0, (4.0 - seconds(1000)) / 100))


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_answers_of_few_tokens_say_nothing_of_steps(tokens: int) -> None:
    watched = Watched()
    mine = asked(1000)
    watched.state.booked(mine, 0.0)
    watched.answered(mine, 1.0)
    watched.finished(mine, tokens, 2.0)
    watched.state.finished(mine, watched.endpoint, None, 2.0)
    assert watched.step.told == []


def test_a_clock_that_stands_still_teaches_nothing_and_breaks_nothing() -> None:
    watched = Watched()
    for _ in range(3):
        each = asked(1000)
        watched.state.booked(each, 7.0)
        watched.answered(each, 7.0)
        watched.finished(each, 100, 7.0)
    assert watched.prefill.told == []
    assert watched.state.busy_until == pytest.approx(7.0)
    assert all(took == 0.0 for _, took in watched.step.told), "which a line ignores"


def test_what_it_never_heard_of_is_ignored() -> None:
    watched = Watched()
    stranger = asked(1000)
    watched.answered(stranger, 1.0)
    watched.finished(stranger, 100, 2.0)
    assert (watched.state.busy_until, watched.step.told) == (0.0, [])


class Engine(RuleBasedStateMachine):
    """Any order of events, on a clock that may stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.state = state()
        self.endpoint = endpoint()
        self.now = 0.0
        self.open: list[InferenceRequest] = []

    @rule(later=st.floats(0.0, 20.0))
    def time_passes(self, later: float) -> None:
        self.now += later

    @rule(tokens=st.integers(0, 100_000), cached=st.integers(0, 100_000), stream=st.booleans())
    def book(self, tokens: int, cached: int, stream: bool) -> None:
        before = max(self.state.busy_until, self.now)
        made = asked(tokens, stream=stream, cached=cached)
        self.state.booked(made, self.now)
        self.open.append(made)
        assert self.state.busy_until > before, "it is behind all that was booked"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.state.answered(data.draw(st.sampled_from(self.open)), self.endpoint, self.now)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 2000), good=st.booleans())
    def end(self, data: st.DataObject, tokens: int, good: bool) -> None:
        mine = data.draw(st.sampled_from(self.open))
        self.open.remove(mine)
        if good:
            self.state.finished(mine, self.endpoint, Usage(mine.prompt_tokens, tokens), self.now)
        self.state.ended(mine, self.now)
        self.state.ended(mine, self.now)

    @invariant()
    def nothing_is_kept_of_what_has_ended(self) -> None:
        assert self.state.open_requests == len(self.open)
        if not self.open:
            assert self.state.busy_until <= self.now

    @invariant()
    def all_is_finite_and_positive(self) -> None:
        assert math.isfinite(self.state.busy_until)
        self.state.look(self.endpoint, self.now, 1024.0)
        state = self.state
        assert 0.0 < state.prefill_slope < math.inf
        assert 0.0 < state.step_seconds < math.inf


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
