from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest
from llmgate.routing.expected_latency import ExpectedLatency
from tests.core.make import pool, request
from tests.routing.test_policies import SYSTEM, prompt, send, start

NOW = 10_000.0


def costs(scheduler: Scheduler, asked: InferenceRequest, now: float = NOW) -> dict[str, float]:
    decision = scheduler.schedule(asked, now)
    return dict(zip((each.name for each in decision.candidates.endpoints), decision.costs, strict=True))


def first(scheduler: Scheduler) -> Endpoint:
    return next(iter(scheduler.pool))


def test_the_cost_is_prefill_and_decode_in_seconds() -> None:
    scheduler = Scheduler(pool(2, e1=2.0), ExpectedLatency(1000.0, 0.01, 0.001))
    assert costs(scheduler, request(500, 100)) == pytest.approx({"e0": 0.5 + 100 * 0.011, "e1": 0.25 + 50 * 0.011})


def test_work_ahead_and_the_batch_that_it_joins_are_added() -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency(1000.0, 0.01, 0.001))
    charge = scheduler.ledger.book(request(2000, 300), first(scheduler), NOW)
    first(scheduler).load.recent_tokens = 0.0
    assert costs(scheduler, request(500, 100))["e0"] == pytest.approx(2.5 + 100 * 0.012)
    charge.prefill_done()
    assert costs(scheduler, request(500, 100))["e0"] == pytest.approx(0.5 + 100 * 0.012)


def test_what_is_cached_need_not_be_computed() -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency(1000.0, 0.01, 0.0))
    send(scheduler, prompt(*range(8), output=0), 0.0)
    assert costs(scheduler, prompt(*range(8), 99, output=0))["e0"] == pytest.approx(64 / 1000)


@pytest.mark.parametrize(("age", "ahead"), [(1.0, 3 * 1024), (6.0, 0)])
def test_requests_that_the_engine_says_are_waiting_count_while_the_reading_is_fresh(age: float, ahead: int) -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency(1000.0, 0.01, 0.0))
    first(scheduler).metrics = EndpointMetrics(at=NOW - age, waiting=3)
    assert costs(scheduler, request(500, 0))["e0"] == pytest.approx((500 + ahead) / 1000)


def test_what_waits_there_and_what_was_sent_is_the_same_work() -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency(1000.0, 0.01, 0.0))
    first(scheduler).metrics = EndpointMetrics(at=NOW, waiting=3, running=5)
    scheduler.ledger.book(request(5000, 0), first(scheduler), NOW)
    assert costs(scheduler, request(500, 0))["e0"] == pytest.approx(5.5)


def test_requests_that_the_engine_says_are_running_slow_each_step() -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency(1000.0, 0.01, 0.001))
    first(scheduler).metrics = EndpointMetrics(at=NOW, running=49)
    assert costs(scheduler, request(0, 100))["e0"] == pytest.approx(100 * 0.06)


def test_an_endpoint_without_room_comes_last() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    full, busy = scheduler.pool
    full.metrics = EndpointMetrics(at=NOW, kv_usage=0.9)
    scheduler.ledger.book(request(50_000, 1000), busy, NOW)
    assert scheduler.schedule(request(), NOW).endpoint is busy
    busy.metrics = full.metrics
    assert scheduler.schedule(request(), NOW).endpoint is full, "when there is room nowhere, time decides again"


def test_a_prefix_that_everyone_shares_spreads_before_there_is_a_queue() -> None:
    for concurrent in (False, True):
        scheduler = Scheduler(pool(4), ExpectedLatency())
        use = start if concurrent else send
        counts = Counter(use(scheduler, prompt(*SYSTEM, 1000 + user), user * 0.01) for user in range(1000))
        assert all(225 <= count <= 275 for count in counts.values()), (concurrent, counts)


def test_each_of_200_system_prompts_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), ExpectedLatency())
    places: dict[int, Counter[str]] = {}
    for number in range(4000):
        tenant = number * 7919 % 200
        asked = prompt(*(1000 * tenant + block for block in range(4)), 10**6 + number)
        places.setdefault(tenant, Counter())[send(scheduler, asked, number * 0.01)] += 1
    assert sum(max(counts.values()) for counts in places.values()) >= 0.97 * 4000
    load = sum(places.values(), Counter())
    assert max(load.values()) <= 1.5 * min(load.values()), load


def test_nearly_every_conversation_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), ExpectedLatency())
    where: dict[int, list[str]] = {}
    now = 0
    for turn in range(1, 6):
        for user in range(200):
            now += 1
            asked = prompt(*SYSTEM, *(10_000 * user + part for part in range(2 * turn)))
            where.setdefault(user, []).append(send(scheduler, asked, now * 0.02))
    moved = sum(len(set(places)) > 1 for places in where.values())
    assert moved <= 12, f"{moved} of 200 left their cache"
    counts = Counter(places[-1] for places in where.values())
    assert all(40 <= count <= 60 for count in counts.values()), counts


def test_a_lone_conversation_never_moves() -> None:
    scheduler = Scheduler(pool(8), ExpectedLatency())
    assert len({send(scheduler, prompt(*range(4 + 3 * turn), output=200), turn * 2.0) for turn in range(100)}) == 1
