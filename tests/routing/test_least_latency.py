from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, TerminationCause, Usage, Verdict
from llmgate.routing.latencies import Latencies
from llmgate.routing.least_latency import LeastLatency
from tests.core.make import endpoint, pool, request
from tests.routing.test_policies import start


def answer(
    scheduler: Scheduler, seconds: dict[str, float], now: float, output: int = 100, verdict: Verdict = Verdict.GOOD
) -> str:
    """A request on its own: it ends before the next begins."""
    asked = request(0, output)
    decision = scheduler.schedule(asked, now)
    name = decision.endpoint.name
    charge = scheduler.book(asked, decision, now)
    usage = Usage(1, output)
    scheduler.settle(charge, TerminationCause.COMPLETED, now + seconds[name], verdict=verdict, usage=usage)
    return name


def get(scheduler: Scheduler, name: str) -> Endpoint:
    found = scheduler.pool.get(name)
    assert found is not None
    return found


# The mean ----------------------------------------------------------------------------------------------------------


def test_the_mean_is_time_over_output_tokens() -> None:
    latencies, one = Latencies(30.0), endpoint()
    assert latencies.mean(one) is None
    latencies.note(request(0, 10), one, Usage(0, 100), 2.0, 0.0)
    assert latencies.mean(one) == pytest.approx(0.02)
    latencies.note(request(0, 10), one, Usage(0, 300), 2.0, 0.0)
    assert latencies.mean(one) == pytest.approx(4.0 / 400)


def test_old_answers_fade_by_a_factor_of_e_each_time_constant() -> None:
    latencies, one = Latencies(30.0), endpoint()
    latencies.note(request(0), one, Usage(0, 100), 10.0, 0.0)
    latencies.note(request(0), one, Usage(0, 100), 1.0, 30.0)
    faded = 1 / 2.718281828
    assert latencies.mean(one) == pytest.approx((10 * faded + 1) / (100 * faded + 100))


def test_without_usage_what_was_expected_counts_and_prompts_count_a_hundredth() -> None:
    latencies, one = Latencies(30.0), endpoint()
    latencies.note(request(5000, 50), one, None, 1.0, 0.0)
    assert latencies.mean(one) == pytest.approx(1.0 / 100)


def test_an_endpoint_that_has_not_answered_counts_as_average() -> None:
    latencies = Latencies(30.0)
    fast, slow, new = (endpoint(slot=slot) for slot in range(3))
    assert latencies.means([fast, new]) == [1.0, 1.0]
    latencies.note(request(0), fast, Usage(0, 100), 1.0, 0.0)
    latencies.note(request(0), slow, Usage(0, 100), 3.0, 0.0)
    assert latencies.means([fast, slow, new]) == pytest.approx([0.01, 0.03, 0.02])
    latencies.forget(slow)
    assert latencies.mean(slow) is None


# The choice --------------------------------------------------------------------------------------------------------


def test_the_fastest_endpoint_is_found_without_being_told() -> None:
    scheduler = Scheduler(pool(4), LeastLatency())
    seconds = {"e0": 4.0, "e1": 1.0, "e2": 4.0, "e3": 4.0}
    names = [answer(scheduler, seconds, now=number * 5.0) for number in range(200)]
    assert set(names[:60]) == {"e0", "e1", "e2", "e3"}, "each is tried"
    assert Counter(names[60:])["e1"] >= 0.9 * 140


def test_long_answers_do_not_make_an_endpoint_look_slow() -> None:
    router = LeastLatency(explore=0.0)
    scheduler = Scheduler(pool(2), router)
    for name, output in (("e0", 10), ("e1", 2000)):
        router.finished(request(), get(scheduler, name), Usage(0, output), output * 0.01, 0.0)
    assert {start(scheduler, request()) for _ in range(2)} == {"e0", "e1"}


def test_the_fastest_is_not_sent_more_than_keeps_it_the_fastest() -> None:
    """Nothing ends in the meantime: the means stay what they are."""
    router = LeastLatency(tie_margin=0.0)
    scheduler = Scheduler(pool(2), router)
    for name, mean in (("e0", 0.01), ("e1", 0.03)):
        router.finished(request(), get(scheduler, name), Usage(0, 1000), mean * 1000, 0.0)
    counts = Counter(start(scheduler, request()) for _ in range(400))
    assert 298 <= counts["e0"] <= 302


def test_an_endpoint_that_became_fast_is_noticed() -> None:
    scheduler = Scheduler(pool(2), LeastLatency())
    before = [answer(scheduler, {"e0": 1.0, "e1": 9.0}, now=number * 10.0) for number in range(100)]
    after = [answer(scheduler, {"e0": 1.0, "e1": 0.1}, now=1000 + number * 10.0) for number in range(100)]
    assert Counter(before)["e0"] >= 90
    assert after[25:].count("e1") >= 0.9 * 75


def test_exploring_takes_a_bounded_share_of_the_requests_and_one_at_a_time() -> None:
    scheduler = Scheduler(pool(8), LeastLatency(explore=0.1, stale_after=1.0))
    seconds = {each.name: 1.0 if each.name == "e0" else 100.0 for each in scheduler.pool}
    for number in range(16):
        answer(scheduler, seconds, now=number * 200.0)
    names = [answer(scheduler, seconds, now=1e4 + number * 200.0) for number in range(1000)]
    elsewhere = [name for name in names if name != "e0"]
    assert 80 <= len(elsewhere) <= 100
    assert max(Counter(elsewhere).values()) <= 20, "they take turns"
    slow = get(scheduler, "e1")
    for each in scheduler.pool:
        if each is not slow:
            scheduler.pool.set_draining(each, each.name != "e0")
    scheduler.ledger.book(request(), slow, 1e6)
    assert {answer(scheduler, seconds, now=1e6 + number) for number in range(50)} == {"e0"}


def test_without_exploring_a_slow_endpoint_is_never_tried_again() -> None:
    scheduler = Scheduler(pool(2), LeastLatency(explore=0.0))
    seconds = {"e0": 1.0, "e1": 9.0}
    names = [answer(scheduler, seconds, now=number * 100.0) for number in range(100)]
    assert names.count("e1") <= 1


def test_errors_that_come_fast_attract_nobody() -> None:
    scheduler = Scheduler(pool(2), LeastLatency())
    seconds = {"e0": 1.0, "e1": 1.0}
    for number in range(4):
        answer(scheduler, seconds, now=float(number))
    for number in range(50):
        asked = request(0, 100)
        charge = scheduler.ledger.book(asked, get(scheduler, "e1"), 5.0 + number)
        scheduler.settle(charge, TerminationCause.COMPLETED, 5.001 + number, verdict=Verdict.NEUTRAL)
    counts = Counter(answer(scheduler, seconds, now=60.0 + number) for number in range(100))
    assert 40 <= counts["e0"] <= 60


def test_an_endpoint_that_leaves_is_forgotten() -> None:
    scheduler = Scheduler(pool(2), LeastLatency())
    for number in range(6):
        answer(scheduler, {"e0": 1.0, "e1": 1.0}, now=float(number))
    router = scheduler.router
    assert isinstance(router, LeastLatency)
    for name in ("e0", "e1"):
        scheduler.remove(name)
    assert not router._latencies._seen
