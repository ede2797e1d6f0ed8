"""Rivals are asked, told and counted; nothing of theirs reaches the policy that routes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.comparison import Comparison, Standing
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.slo import Prediction
from llmgate.core.types import Endpoint, InferenceRequest, TerminationCause, Usage, Verdict
from tests.core.make import pool, request

TIMES = {"e0": 1.0, "e1": 2.0, "e2": 4.0}


class Prefers(Router):
    """One endpoint; it remembers what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: list[tuple[str, str]] = []

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float(each.name != self.name) for each in candidates.endpoints]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(("booked", endpoint.name))

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(("answered", endpoint.name))

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self.heard.append(("finished", endpoint.name))

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(("ended", endpoint.name))

    def removed(self, endpoint: Endpoint) -> None:
        self.heard.append(("removed", endpoint.name))


class Failing(Prefers):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        raise ValueError("of its own making")


def judge(request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float) -> Prediction | None:
    return Prediction(TIMES[endpoint.name], 0.1)


def compared(
    *rivals: Router | str, failures: list[str] | None = None, every: float = 0.0
) -> tuple[Scheduler, Comparison, Prefers]:
    active = Prefers("e0")
    scheduler = Scheduler(pool(3), active, explain_every=every)
    failures = [] if failures is None else failures
    scheduler.comparison = Comparison(
        "active",
        {f"rival{index}": rival for index, rival in enumerate(rivals)},
        judge,
        Random(0),
        failed=lambda name, error: failures.append(f"{name}: {error}"),
    )
    return scheduler, scheduler.comparison, active


def serve(scheduler: Scheduler, now: float = 0.0, verdict: Verdict = Verdict.GOOD) -> str:
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, now), now)
    if verdict is Verdict.GOOD:
        scheduler.answered(charge, now)
    cause = TerminationCause.COMPLETED if verdict is Verdict.GOOD else TerminationCause.UPSTREAM_ERROR
    scheduler.settle(charge, cause, now, verdict=verdict)
    return charge.endpoint.name


def standing(comparison: Comparison, name: str) -> Standing:
    return {each.name: each for each in comparison.standings}[name]


def test_each_policy_is_judged_by_what_its_own_choice_is_expected_to_take() -> None:
    scheduler, comparison, _ = compared(Prefers("e2"), Prefers("e0"))
    assert [serve(scheduler) for _ in range(4)] == ["e0"] * 4
    output = request().expected_output_tokens
    for name, same, ttft in (("active", 4, 1.0), ("rival0", 0, 4.0), ("rival1", 4, 1.0)):
        found = standing(comparison, name)
        assert (found.decisions, found.same, found.ttft) == (4, same, 4 * ttft)
        assert found.e2e == 4 * (ttft + 0.1 * output)
        assert found.busiest == 4


def test_rivals_hear_what_really_happened() -> None:
    rival = Prefers("e2")
    scheduler, _, active = compared(rival)
    serve(scheduler)
    assert rival.heard == active.heard == [(what, "e0") for what in ("booked", "answered", "finished", "ended")]
    serve(scheduler, verdict=Verdict.BAD)
    assert rival.heard[4:] == active.heard[4:] == [("booked", "e0"), ("ended", "e0")]


def test_they_hear_of_no_request_that_was_not_compared() -> None:
    rival = Prefers("e2")
    scheduler, comparison, active = compared(rival, every=1.0)
    for now in (0.0, 0.5, 1.0):
        serve(scheduler, now)
    assert comparison.decisions == 2
    assert len(rival.heard) == 2 * 4
    assert len(active.heard) == 3 * 4


def test_the_larger_the_fleet_the_fewer_decisions_are_compared() -> None:
    rival = Prefers("e2")
    scheduler = Scheduler(pool(3), Prefers("e0"), explain_every=0.0)
    scheduler.comparison = Comparison("a", {"r": rival}, judge, Random(0), failed=lambda *_: None, spacing=0.1)
    for now in (0.0, 0.2, 0.31, 0.5, 0.62):
        serve(scheduler, now)
    assert scheduler.comparison.decisions == 3
    assert len(rival.heard) == 3 * 4


def test_what_began_before_a_change_of_policy_ends_where_it_began() -> None:
    first, second = Prefers("e1"), Prefers("e1")
    scheduler, _, _ = compared(first)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.comparison = Comparison("other", {"r": second}, judge, Random(0), failed=lambda *_: None)
    scheduler.settle(charge, TerminationCause.CLIENT_GONE, 1.0)
    assert first.heard == [("booked", "e0"), ("ended", "e0")]
    assert second.heard == []


def test_an_endpoint_that_was_removed_is_told_of_once_and_then_no_more() -> None:
    rival = Prefers("e2")
    scheduler, comparison, _ = compared(rival)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.remove("e0")
    scheduler.settle(charge, TerminationCause.COMPLETED, 1.0, verdict=Verdict.GOOD)
    assert rival.heard == [("booked", "e0"), ("removed", "e0")]
    assert comparison.active.busiest == 0


def test_one_that_fails_is_told_of_once_and_asked_no_more_and_no_request_fails() -> None:
    failures: list[str] = []
    failing, sound = Failing("e1"), Prefers("e1")
    scheduler, comparison, _ = compared(failing, sound, failures=failures)
    assert [serve(scheduler) for _ in range(3)] == ["e0"] * 3
    assert failures == ["rival0: of its own making"]
    assert standing(comparison, "rival0").note == "failed: ValueError"
    assert failing.heard == []
    assert standing(comparison, "rival1").decisions == 3


def test_one_that_cannot_be_compared_says_why() -> None:
    scheduler, comparison, _ = compared("it needs what is not there")
    serve(scheduler)
    assert standing(comparison, "rival0").note == "it needs what is not there"
    assert standing(comparison, "rival0").decisions == 0


def test_what_nobody_can_judge_is_not_counted() -> None:
    rival = Prefers("e1")
    scheduler = Scheduler(pool(3), Prefers("e0"), explain_every=0.0)
    scheduler.comparison = Comparison("a", {"r": rival}, lambda *_: None, Random(0), failed=lambda *_: None)
    serve(scheduler)
    assert [each.decisions for each in scheduler.comparison.standings] == [0, 0]


class Drawing(Router):
    """Draws, as `random` does."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.random.random() for _ in candidates.endpoints]


@given(st.lists(st.sampled_from([Verdict.GOOD, Verdict.BAD, Verdict.NEUTRAL]), max_size=30))
def test_the_policy_that_routes_draws_and_chooses_as_if_it_were_alone(verdicts: list[Verdict]) -> None:
    alone = Scheduler(pool(3), Drawing(), seed=7, explain_every=0.0)
    watched = Scheduler(pool(3), Drawing(), seed=7, explain_every=0.0)
    watched.comparison = Comparison("a", {"r": Drawing()}, judge, Random(1), failed=lambda *_: None)
    assert [serve(alone, 0.0, each) for each in verdicts] == [serve(watched, 0.0, each) for each in verdicts]
