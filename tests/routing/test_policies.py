"""What each policy promises, driven through the real scheduler."""

from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.pool import EndpointPool
from llmgate.core.prefix import block_end
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, EndpointSpec, InferenceRequest, TerminationCause
from llmgate.routing import registry
from llmgate.routing.least_connections import LeastConnections
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.routing.round_robin import RoundRobin
from llmgate.routing.token_aware import TokenAware
from llmgate.testing import check_router
from tests.core.make import pool, request


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_policy_keeps_the_schedulers_contract(name: str) -> None:
    check_router(lambda: registry.create(name))


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_policy_spreads_equal_requests_evenly(name: str) -> None:
    scheduler = Scheduler(pool(4), registry.create(name))
    counts = Counter(send(scheduler, request(), now=number * 0.01) for number in range(400))
    assert all(90 <= count <= 110 for count in counts.values()), counts


def send(scheduler: Scheduler, asked: InferenceRequest, now: float = 0.0) -> str:
    """A request that is over at once."""
    decision = scheduler.schedule(asked, now)
    scheduler.settle(scheduler.book(asked, decision, now), TerminationCause.COMPLETED, now)
    return decision.endpoint.name


def start(scheduler: Scheduler, asked: InferenceRequest, now: float = 0.0) -> str:
    """A request that stays in flight."""
    decision = scheduler.schedule(asked, now)
    scheduler.book(asked, decision, now)
    return decision.endpoint.name


# round-robin -------------------------------------------------------------------------------------------------------


def test_round_robin_takes_turns() -> None:
    scheduler = Scheduler(pool(3), RoundRobin())
    order = [send(scheduler, request()) for _ in range(9)]
    assert order[:3] == order[3:6] == order[6:]
    assert sorted(order[:3]) == ["e0", "e1", "e2"]


def test_round_robin_follows_weights() -> None:
    scheduler = Scheduler(pool(3, e0=3.0), RoundRobin())
    counts = Counter(send(scheduler, request()) for _ in range(500))
    assert (counts["e0"], counts["e1"], counts["e2"]) == (300, 100, 100)


def test_round_robin_follows_weights_whatever_other_models_are_asked_for() -> None:
    served = {"a": {"x": 1.0, "y": 1.0}, "b": {"heavy": 3.0, "light": 1.0}}
    made = EndpointPool(
        [
            EndpointSpec(name, f"http://{name}", weight, models={model: model})
            for model, endpoints in served.items()
            for name, weight in endpoints.items()
        ]
    )
    for each in made:
        each.health.probe_passed()
    scheduler = Scheduler(made, RoundRobin())
    counts: Counter[str] = Counter()
    for number in range(4000):
        asked = request()
        asked.model = "a" if number % 10 else "b"
        counts[send(scheduler, asked)] += 1
    assert counts == {"x": 1800, "y": 1800, "heavy": 300, "light": 100}


def test_round_robin_remembers_nothing_of_endpoints_that_are_gone() -> None:
    made = pool(3)
    router = RoundRobin()
    scheduler = Scheduler(made, router)
    for _ in range(9):
        send(scheduler, request())
    assert router != RoundRobin()
    for name in ("e0", "e1", "e2"):
        scheduler.remove(name)
    assert router == RoundRobin()


def test_round_robin_does_not_flood_an_endpoint_that_comes_back() -> None:
    made = pool(2)
    scheduler = Scheduler(made, RoundRobin())
    away = next(iter(made))
    made.set_draining(away, True)
    for _ in range(100):
        send(scheduler, request())
    made.set_draining(away, False)
    counts = Counter(send(scheduler, request()) for _ in range(10))
    assert counts[away.name] == 5


# least-connections -------------------------------------------------------------------------------------------------


def test_least_connections_fills_the_emptiest() -> None:
    scheduler = Scheduler(pool(3), LeastConnections())
    assert sorted(start(scheduler, request(10_000)) for _ in range(6)) == ["e0", "e0", "e1", "e1", "e2", "e2"]


def test_least_connections_counts_by_weight() -> None:
    scheduler = Scheduler(pool(2, e0=3.0), LeastConnections())
    assert Counter(start(scheduler, request()) for _ in range(40)) == {"e0": 30, "e1": 10}


# token-aware -------------------------------------------------------------------------------------------------------


def test_token_aware_sees_that_one_long_prompt_is_worth_many_short_ones() -> None:
    scheduler = Scheduler(pool(2), TokenAware())
    long = start(scheduler, request(10_000, 100))
    shorts = [start(scheduler, request(50, 50)) for _ in range(50)]
    assert long not in shorts


def test_token_aware_lets_go_of_work_as_it_is_done() -> None:
    scheduler = Scheduler(pool(2, e0=1.0), TokenAware())
    asked = request(10_000, 1000)
    asked.max_tokens = 1000  # else more is expected of an answer that has become long
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    other = next(each for each in scheduler.pool if each is not charge.endpoint)
    scheduler.ledger.book(request(500, 0), other, 0.0)
    assert scheduler.schedule(request(), 1.0).endpoint is other
    charge.prefill_done()
    charge.progress(800)
    assert scheduler.schedule(request(), 2.0).endpoint is charge.endpoint


def test_token_aware_puts_a_full_kv_cache_last_while_the_reading_is_fresh() -> None:
    made = pool(2)
    scheduler = Scheduler(made, TokenAware())
    full, busy = made
    full.metrics = EndpointMetrics(at=100.0, kv_usage=0.95)
    scheduler.ledger.book(request(50_000, 0), busy, 100.0)
    assert scheduler.schedule(request(), 101.0).endpoint is busy
    assert scheduler.schedule(request(), 106.0).endpoint is full, "a stale reading is unknown"
    made.set_draining(busy, True)
    assert scheduler.schedule(request(), 101.0).endpoint is full, "last, not never"


def test_token_aware_still_counts_tokens_when_every_kv_cache_is_full() -> None:
    made = pool(2)
    scheduler = Scheduler(made, TokenAware())
    busy, idle = made
    for each in made:
        each.metrics = EndpointMetrics(at=0.0, kv_usage=0.95)
    scheduler.ledger.book(request(500_000, 0), busy, 0.0)
    idle.load.recent_tokens = 1e9
    assert {send(scheduler, request()) for _ in range(20)} == {idle.name}


# prefix-affinity ---------------------------------------------------------------------------------------------------
# Prompts are chains of blocks as wire/prefix_keys.py cuts them, at 4 bytes a token: 64 tokens each, 256 from the 17th.


def prompt(*blocks: int, output: int = 64) -> InferenceRequest:
    size = block_end(len(blocks))
    return request(size // 4, output, prefix=tuple(hash(blocks[: n + 1]) for n in range(len(blocks))), size=size)


SYSTEM = tuple(range(1, 5))  # about 1,000 characters


def test_a_prefix_that_everyone_shares_spreads() -> None:
    for concurrent in (False, True):
        scheduler = Scheduler(pool(4), PrefixAffinity())
        use = start if concurrent else send
        counts = Counter(use(scheduler, prompt(*SYSTEM, 1000 + user), user * 0.01) for user in range(1000))
        assert all(225 <= count <= 275 for count in counts.values()), (concurrent, counts)


def test_it_spreads_with_the_clock_standing_still_and_long_answers_expected() -> None:
    scheduler = Scheduler(pool(4), PrefixAffinity())
    counts = Counter(send(scheduler, prompt(*SYSTEM, 1000 + user, output=1024)) for user in range(1000))
    assert all(225 <= count <= 275 for count in counts.values()), counts


def test_each_conversation_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), PrefixAffinity())
    home: dict[int, str] = {}
    moved = now = 0
    for turn in range(1, 6):
        for user in range(200):
            now += 1
            asked = prompt(*SYSTEM, *(10_000 * user + part for part in range(2 * turn)))
            where = send(scheduler, asked, now * 0.02)
            moved += home.setdefault(user, where) != where
    counts = Counter(home.values())
    assert all(45 <= count <= 55 for count in counts.values()), counts
    assert moved <= 8, f"{moved} of 800 later turns left their cache"


def test_each_of_200_system_prompts_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), PrefixAffinity())
    places: dict[int, Counter[str]] = {}
    for number in range(4000):
        tenant = number * 7919 % 200
        asked = prompt(*(1000 * tenant + block for block in range(4)), 10**6 + number)
        places.setdefault(tenant, Counter())[send(scheduler, asked, number * 0.01)] += 1
    at_home = sum(max(counts.values()) for counts in places.values())
    assert at_home >= 0.97 * 4000
    load = sum(places.values(), Counter())
    assert max(load.values()) <= 1.5 * min(load.values()), load


def test_a_lone_conversation_never_moves() -> None:
    scheduler = Scheduler(pool(8), PrefixAffinity())
    places = {send(scheduler, prompt(*range(4 + 3 * turn), output=200), turn * 2.0) for turn in range(100)}
    assert len(places) == 1


def test_an_overloaded_home_is_left_and_found_again() -> None:
    made = pool(2)
    scheduler = Scheduler(made, PrefixAffinity())
    home = send(scheduler, prompt(*SYSTEM), 0.0)
    there = made.get(home)
    assert there is not None
    burden = scheduler.ledger.book(request(100_000, 0), there, 1000.0)
    assert send(scheduler, prompt(*SYSTEM, 99), 1000.0) != home
    scheduler.ledger.settle(burden, TerminationCause.COMPLETED)
    again = prompt(*SYSTEM, *range(100, 140))
    made.set_draining(next(each for each in made if each is not there), True)
    assert send(scheduler, again, 5000.0) == home


@pytest.mark.parametrize(
    "metrics",
    [EndpointMetrics(at=10.0, kv_usage=0.9), EndpointMetrics(at=0.0, kv_capacity_tokens=300)],
    ids=["kv usage above 0.85", "capacity would be exceeded"],
)
def test_an_endpoint_without_room_is_left_whatever_it_holds(metrics: EndpointMetrics) -> None:
    made = pool(2)
    scheduler = Scheduler(made, PrefixAffinity())
    home = made.get(send(scheduler, prompt(*SYSTEM), 10.0))
    assert home is not None
    assert send(scheduler, prompt(*SYSTEM, 50), 10.0) == home.name
    home.metrics = metrics
    assert send(scheduler, prompt(*SYSTEM, 51), 10.0) != home.name


def test_when_no_endpoint_has_room_a_conversation_still_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), PrefixAffinity())
    for each in scheduler.pool:
        each.metrics = EndpointMetrics(at=0.0, kv_usage=0.95, kv_capacity_tokens=4000, lifetime=1e9)
    homes = {number: send(scheduler, prompt(number, 1, 2, 3)) for number in range(40)}
    stayed = [send(scheduler, prompt(number, 1, 2, 3, 4)) == home for number, home in homes.items()]
    assert sum(stayed) >= 38


def test_capacity_is_compared_with_what_requests_hold_and_not_with_what_is_left_to_do() -> None:
    scheduler = Scheduler(pool(2), PrefixAffinity())
    home, other = scheduler.pool
    home.metrics = EndpointMetrics(at=0.0, kv_capacity_tokens=10_000)
    other.load.recent_tokens = 50_000.0
    asked = request(8000, 200)
    charge = scheduler.ledger.book(asked, home, 0.0)
    charge.prefill_done()
    charge.progress(190)
    assert home.load.tokens < 20
    assert scheduler.schedule(request(1000, 100), 0.0).endpoint is other
    scheduler.settle(charge, TerminationCause.COMPLETED, 0.0)
    assert scheduler.schedule(request(1000, 100), 0.0).endpoint is home


def test_requests_without_a_prompt_prefix_go_to_the_least_loaded() -> None:
    scheduler = Scheduler(pool(3), PrefixAffinity())
    busy = start(scheduler, request(5000))
    assert busy not in [start(scheduler, request(10, 10)) for _ in range(20)]


# options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("prefix-affinty", {}, "did you mean prefix-affinity"),
        ("zzz", {}, "there are: round-robin"),
        ("token-aware", {"kv_limt": 0.5}, "options.kv_limt: the policy 'token-aware' has no such option"),
        ("token-aware", {"kv_limit": 1.5}, "kv_limit must be above 0 and at most 1"),
        ("token-aware", {"kv_limit": "high"}, "options.kv_limit: must be a number"),
        ("prefix-affinity", {"patience": -1}, "patience must be 0 or more"),
        ("prefix-affinity", {"relative": float("nan")}, "relative must be 0 or more"),
        ("prefix-affinity", {"capacity_share": 0}, "capacity_share must be above 0"),
        ("round-robin", {"weight": 1}, "it has: none"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_what_is_allowed(
    name: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        registry.create(name, options)
