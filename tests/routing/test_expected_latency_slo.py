"""expected-latency with targets: who is predicted to miss one comes last."""

from __future__ import annotations

from random import Random

import pytest

from llmgate.core.scheduler import Scheduler
from llmgate.core.slo import Slo
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest, TerminationCause, Usage, Verdict
from llmgate.routing import registry
from llmgate.routing.expected_latency import ExpectedLatency
from tests.core.make import pool, request

NOW = 1000.0


def scheduler(count: int = 2, **weights: float) -> Scheduler:
    return Scheduler(pool(count, up=True, **weights), ExpectedLatency())


def named(scheduler: Scheduler, name: str) -> Endpoint:
    endpoint = scheduler.pool.get(name)
    assert endpoint is not None
    return endpoint


def start(scheduler: Scheduler, endpoint: Endpoint, asked: InferenceRequest) -> None:
    """Put it there, whatever the policy would have chosen."""
    others = [each for each in scheduler.pool if each is not endpoint]
    scheduler.book(asked, scheduler.schedule(asked, NOW, others), NOW)


def wanting(prompt: int, output: int, slo: Slo | None) -> InferenceRequest:
    made = request(prompt, output)
    made.slo = slo
    return made


def late_but_quick() -> Scheduler:
    """e0 decodes eight times as fast as e1 but has a long prompt ahead; e1 is idle."""
    made = scheduler(e0=8.0)
    start(made, named(made, "e0"), request(40_000, 10))
    return made


def test_an_endpoint_predicted_to_miss_the_first_token_is_a_last_resort() -> None:
    assert late_but_quick().schedule(wanting(100, 2000, None), NOW).endpoint.name == "e0"
    decision = late_but_quick().schedule(wanting(100, 2000, Slo(ttft=0.2)), NOW)
    assert decision.endpoint.name == "e1"


def test_an_endpoint_predicted_to_miss_the_time_between_tokens_is_a_last_resort() -> None:
    def made() -> Scheduler:
        made = scheduler()
        named(made, "e0").metrics = EndpointMetrics(at=NOW, running=100)
        start(made, named(made, "e1"), request(30_000, 1))
        return made

    assert made().schedule(wanting(100, 10, None), NOW).endpoint.name == "e0"
    assert made().schedule(wanting(100, 10, Slo(tpot=0.02)), NOW).endpoint.name == "e1"


def test_when_all_are_predicted_to_miss_the_costs_are_the_ordinary_ones() -> None:
    without = late_but_quick().schedule(wanting(100, 2000, None), NOW)
    hopeless = late_but_quick().schedule(wanting(100, 2000, Slo(ttft=1e-6)), NOW)
    assert list(hopeless.costs) == list(without.costs)


def test_targets_that_all_meet_change_no_cost() -> None:
    without = late_but_quick().schedule(wanting(100, 2000, None), NOW)
    easy = late_but_quick().schedule(wanting(100, 2000, Slo(ttft=60.0, tpot=1.0)), NOW)
    assert list(easy.costs) == list(without.costs)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_of_those_that_are_not_predicted_to_miss_wins(seed: int) -> None:
    random = Random(seed)
    made = scheduler(12)
    for _ in range(60):
        start(made, random.choice(list(made.pool)), request(random.randrange(1, 4000), random.randrange(1, 500)))
    for ttft in (0.5, 1.0, 1.5, 3.0):
        ordinary = made.schedule(wanting(500, 100, None), NOW)
        endpoints, cached, now = ordinary.candidates
        asked = wanting(500, 100, Slo(ttft=ttft))
        met = []
        for endpoint, held, cost in zip(endpoints, cached, ordinary.costs, strict=True):
            predicted = made.router.predict(asked, endpoint, held, now)
            assert predicted is not None
            if predicted.ttft <= ttft:
                met.append((cost, endpoint.name))
        chosen = made.schedule(asked, NOW).endpoint.name
        assert chosen == (min(met)[1] if met else ordinary.endpoint.name)


def test_a_prediction_is_the_work_ahead_and_its_own() -> None:
    made = scheduler(1)
    only, router = named(made, "e0"), made.router
    idle = router.predict(request(800, 1), only, 0, NOW)
    assert idle is not None
    assert idle.ttft == pytest.approx(0.006 + 800 / 8000, rel=0.03)
    start(made, only, request(8000, 1))
    behind = router.predict(request(800, 1), only, 0, NOW)
    assert behind is not None
    assert behind.ttft - idle.ttft == pytest.approx(1.0, rel=0.2)
    cached = router.predict(request(800, 1), only, 799, NOW)
    assert cached is not None
    assert behind.ttft - cached.ttft == pytest.approx(0.1, rel=0.05)


def test_without_room_in_the_kv_cache_the_wait_for_it_counts() -> None:
    made = scheduler(1)
    only, router = named(made, "e0"), made.router
    start(made, only, request(10, 1000))
    only.metrics = EndpointMetrics(at=NOW, kv_usage=0.99, kv_capacity_tokens=10_000)
    cramped, roomy = (router.predict(request(tokens, 1), only, 0, NOW) for tokens in (200, 50))
    assert cramped is not None
    assert roomy is not None
    assert (cramped.room, roomy.room) == (False, True)
    assert cramped.ttft > roomy.ttft + 150 / 8000


def test_a_slow_start_makes_an_endpoint_dearer_and_predicts_nothing_worse() -> None:
    made = scheduler(1)
    only = named(made, "e0")
    before = made.router.predict(request(), only, 0, NOW)
    only.weight = 0.1
    assert made.router.predict(request(), only, 0, NOW) == before


def test_predictions_come_right_when_an_engine_is_not_as_expected() -> None:
    """An engine whose first tokens take half again as long as prompts ahead and speed would have it, for whatever
    reason: half of what comes is later than predicted, in the end."""
    made = Scheduler(pool(1), ExpectedLatency(), explain_every=0.0)
    ratios = []
    now = NOW
    for _ in range(200):
        asked = request(800, 20)
        decision = made.schedule(asked, now)
        charge = made.book(asked, decision, now)
        assert decision.explanation is not None
        predicted = decision.explanation.predicted
        assert predicted is not None
        first = now + 0.4
        made.answered(charge, first)
        usage = Usage(800, 20)
        made.settle(charge, TerminationCause.COMPLETED, first + 19 * 0.05, verdict=Verdict.GOOD, usage=usage)
        ratios.append((predicted.ttft / 0.4, predicted.tpot / 0.05))
        now += 10.0
    assert ratios[0][0] < 0.5
    assert ratios[0][1] < 0.5
    assert ratios[-1] == pytest.approx((1.0, 1.0), rel=0.1)


def test_what_was_learnt_of_predictions_goes_with_the_endpoint() -> None:
    made = scheduler(1)
    only, router = named(made, "e0"), made.router
    fresh = router.predict(request(), only, 0, NOW)
    assert fresh is not None
    router.observed(only, fresh, 100 * fresh.ttft, None)
    worse = router.predict(request(), only, 0, NOW)
    assert worse is not None
    assert worse.ttft > fresh.ttft
    router.removed(only)
    assert router.predict(request(), only, 0, NOW) == fresh


@pytest.mark.parametrize("policy", sorted(set(registry.BUILT_IN) - {"expected-latency"}))
def test_other_policies_predict_nothing(policy: str) -> None:
    made = Scheduler(pool(2), registry.create(policy), explain_every=0.0)
    explanation = made.schedule(wanting(100, 100, Slo(ttft=1e-6)), NOW).explanation
    assert explanation is not None
    assert explanation.predicted is None
