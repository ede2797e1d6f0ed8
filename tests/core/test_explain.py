from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmgate.core.explain import MOST_OPTIONS, Why
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Decision, Scheduler
from llmgate.core.slo import Prediction, Slo
from llmgate.core.types import Endpoint, EndpointSpec, InferenceRequest, TerminationCause, Usage, Verdict
from tests.core.make import pool, request


class Foreseeing(Router):
    """Costs by endpoint name; predicts them as TTFT, and that `cramped` endpoints have no room."""

    def __init__(self, cramped: Sequence[str] = (), **costs: float) -> None:
        self.costs = costs
        self.cramped = cramped
        self.heard: list[tuple[str, Prediction, float, float | None]] = []

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.costs.get(each.name, 1.0) for each in candidates.endpoints]

    def predict(self, request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float) -> Prediction:
        return Prediction(self.costs.get(endpoint.name, 1.0), 0.01, endpoint.name not in self.cramped)

    def observed(self, endpoint: Endpoint, predicted: Prediction, ttft: float, tpot: float | None) -> None:
        self.heard.append((endpoint.name, predicted, ttft, tpot))


class Blind(Router):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float(index) for index in range(len(candidates.endpoints))]


def named(scheduler: Scheduler, name: str) -> Endpoint:
    endpoint = scheduler.pool.get(name)
    assert endpoint is not None
    return endpoint


def reasons(
    scheduler: Scheduler, decision: Decision, asked: InferenceRequest, tried: Sequence[Endpoint] = ()
) -> dict[str, Why]:
    return {each.endpoint: each.why for each in scheduler.explain(asked, decision, tried).options}


def test_every_endpoint_of_the_model_has_its_reason() -> None:
    scheduler = Scheduler(pool(9), Foreseeing(["e2"], e0=0.1, e1=5.0, e2=3.0, e3=2.0))
    scheduler.pool.set_draining(named(scheduler, "e4"), True)
    for _ in range(3):
        named(scheduler, "e5").health.probe_failed("down")
    named(scheduler, "e6").busy_until = 1e9
    scheduler._busy_until = 1e9
    tried = [named(scheduler, "e7")]
    scheduler.pool.add(EndpointSpec("other", "http://other", models={"n": "n"}))
    asked = request()
    asked.slo = Slo(ttft=4.0)
    decision = scheduler.schedule(asked, 100.0, tried)
    assert reasons(scheduler, decision, asked, tried) == {
        "e0": Why.CHOSEN,
        "e8": Why.COSTLIER,
        "e3": Why.COSTLIER,
        "e2": Why.NO_ROOM,
        "e1": Why.OVER_SLO,
        "e4": Why.DRAINING,
        "e5": Why.NOT_READY,
        "e6": Why.BUSY,
        "e7": Why.TRIED,
    }


def test_a_half_open_endpoint_that_has_its_trial_is_no_candidate() -> None:
    scheduler = Scheduler(pool(2), Foreseeing(e0=0.1))
    sick = named(scheduler, "e0")
    for _ in range(3):
        sick.health.request_ended(Verdict.BAD, 0.0, trial=0)
    first = request()
    scheduler.book(first, scheduler.schedule(first, 31.0), 31.0)
    second = request()
    assert reasons(scheduler, scheduler.schedule(second, 31.0), second) == {"e1": Why.CHOSEN, "e0": Why.TRIAL}


def test_equal_costs_are_told_from_higher_ones() -> None:
    scheduler = Scheduler(pool(2), Foreseeing())
    asked = request()
    assert sorted(reasons(scheduler, scheduler.schedule(asked, 0.0), asked).values()) == [Why.CHOSEN, Why.TIED]


def test_loads_are_those_before_the_request_was_booked() -> None:
    scheduler = Scheduler(pool(1), Foreseeing(), explain_every=0.0)
    before = request(700, 10)
    scheduler.book(before, scheduler.schedule(before, 0.0), 0.0)
    asked = request(100, 10)
    decision = scheduler.schedule(asked, 0.0)
    scheduler.book(asked, decision, 0.0)
    (option,) = scheduler.explain(asked, decision).options
    assert (option.requests, option.prompt_tokens_ahead) == (1, 700)


def test_of_many_endpoints_the_best_are_told_and_the_others_counted() -> None:
    scheduler = Scheduler(pool(40), Foreseeing((), **{f"e{number}": 40.0 - number for number in range(40)}))
    asked = request()
    explanation = scheduler.explain(asked, scheduler.schedule(asked, 0.0))
    assert [each.endpoint for each in explanation.options] == [f"e{39 - rank}" for rank in range(MOST_OPTIONS)]
    assert explanation.left_out == 40 - MOST_OPTIONS


def test_a_policy_that_predicts_nothing_is_explained_by_its_costs() -> None:
    scheduler = Scheduler(pool(2), Blind())
    asked = request()
    asked.slo = Slo(ttft=0.001)
    explanation = scheduler.explain(asked, scheduler.schedule(asked, 0.0))
    assert explanation.predicted is None
    assert [(each.why, each.cost, each.predicted) for each in explanation.options] == [
        (Why.CHOSEN, 0.0, None),
        (Why.COSTLIER, 1.0, None),
    ]


def test_one_decision_in_so_many_seconds_is_explained() -> None:
    scheduler = Scheduler(pool(2), Foreseeing(), explain_every=1.0)
    times = [0.0, 0.5, 0.9, 1.0, 1.5, 7.0, 7.5]
    explained = [scheduler.schedule(request(), at).explanation is not None for at in times]
    assert explained == [True, False, False, True, False, True, False]


def test_no_decision_is_explained_unless_wanted() -> None:
    assert Scheduler(pool(2), Foreseeing()).schedule(request(), 0.0).explanation is None


def test_a_request_with_targets_has_its_prediction_always() -> None:
    scheduler = Scheduler(pool(2), Foreseeing(e0=0.5))
    asked = request()
    asked.slo = Slo(tpot=0.05)
    explanation = scheduler.schedule(asked, 0.0).explanation
    assert explanation is not None
    assert (explanation.predicted, explanation.options) == (Prediction(0.5, 0.01), ())


@pytest.mark.parametrize(("whole", "tpot"), [(True, 0.125), (False, None)])
def test_what_came_of_a_prediction_is_kept_and_told_to_the_policy(whole: bool, tpot: float | None) -> None:
    router = Foreseeing(e0=0.5)
    scheduler = Scheduler(pool(1), router, explain_every=0.0)
    asked = request()
    decision = scheduler.schedule(asked, 0.0)
    charge = scheduler.book(asked, decision, 0.0)
    scheduler.answered(charge, 0.75)
    if whole:
        usage = Usage(100, 9)
        scheduler.settle(charge, TerminationCause.COMPLETED, 1.75, verdict=Verdict.GOOD, usage=usage)
    else:
        scheduler.settle(charge, TerminationCause.CLIENT_GONE, 1.75)
    assert decision.explanation is not None
    assert (decision.explanation.observed_ttft, decision.explanation.observed_tpot) == (0.75, tpot)
    assert router.heard == [("e0", Prediction(0.5, 0.01), 0.75, tpot)]


def test_an_answer_that_is_not_streamed_does_not_tell_when_it_began() -> None:
    router = Foreseeing()
    scheduler = Scheduler(pool(1), router, explain_every=0.0)
    asked = request()
    asked.stream = False
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.answered(charge, 2.0)
    scheduler.settle(charge, TerminationCause.COMPLETED, 2.0, verdict=Verdict.GOOD, usage=Usage(100, 9))
    assert router.heard == []
