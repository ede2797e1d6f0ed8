from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointMetrics, EndpointSpec, InferenceRequest, TerminationCause
from llmgate.routing.pins import Pins
from llmgate.routing.session_affinity import SessionAffinity
from tests.core.make import endpoint, pool, request
from tests.routing.test_policies import send, start


def of(session: str | None, model: str = "m", prompt: int = 100, output: int = 50) -> InferenceRequest:
    made = request(prompt, output)
    made.session = session
    made.model = model
    return made


def home_of(scheduler: Scheduler, session: str, now: float = 0.0) -> Endpoint:
    found = scheduler.pool.get(send(scheduler, of(session), now))
    assert found is not None
    return found


def test_a_session_stays_where_it_began_whatever_its_neighbours_do() -> None:
    scheduler = Scheduler(pool(4), SessionAffinity())
    homes = {f"s{number}": send(scheduler, of(f"s{number}")) for number in range(100)}
    assert all(20 <= count <= 30 for count in Counter(homes.values()).values())
    for now in range(1, 10):
        start(scheduler, of(None), float(now))
        assert all(send(scheduler, of(session), float(now)) == home for session, home in homes.items())


def test_requests_without_a_session_go_where_there_is_least_to_do() -> None:
    scheduler = Scheduler(pool(3, e0=2.0), SessionAffinity())
    assert Counter(start(scheduler, of(None)) for _ in range(400))["e0"] in range(198, 203)


def test_sessions_of_different_models_are_different() -> None:
    pins, first, second = Pins(10, 300.0), endpoint(slot=0), endpoint(slot=1)
    pins.use(of("s", "a"), first, 0.0)
    pins.use(of("s", "b"), second, 0.0)
    assert pins.home(of("s", "a"), 0.0) is first
    assert pins.home(of("s", "b"), 0.0) is second


@pytest.mark.parametrize("why", ["draining", "down"])
def test_an_endpoint_that_comes_back_in_time_gets_its_sessions_back(why: str) -> None:
    made = pool(3)
    scheduler = Scheduler(made, SessionAffinity())
    home = home_of(scheduler, "s")
    if why == "draining":
        made.set_draining(home, True)
    else:
        home.health.probe_failed("gone", certain=True)
    assert send(scheduler, of("s"), 100.0) != home.name
    assert send(scheduler, of("s"), 200.0) != home.name
    if why == "draining":
        made.set_draining(home, False)
    else:
        home.health.probe_passed()
        home.health.probe_passed()
    for _ in range(3):
        assert send(scheduler, of("s"), 299.0) == home.name


def test_an_endpoint_that_stays_away_loses_its_sessions_when_they_run_out() -> None:
    scheduler = Scheduler(pool(3), SessionAffinity())
    home = home_of(scheduler, "s")
    scheduler.pool.set_draining(home, True)
    for now in range(0, 300, 50):
        assert send(scheduler, of("s"), float(now)) != home.name
    second = send(scheduler, of("s"), 301.0)
    scheduler.pool.set_draining(home, False)
    assert {send(scheduler, of("s"), 301.0 + 250 * number) for number in range(5)} == {second}


def test_a_pin_lasts_as_long_as_it_is_used() -> None:
    pins, one, other = Pins(10, 300.0), endpoint(slot=0), endpoint(slot=1)
    for now in range(0, 3000, 299):
        pins.use(of("s"), one, float(now))
        assert pins.home(of("s"), float(now)) is one
    pins.use(of("s"), other, 2990.0)
    assert pins.home(of("s"), 2990.0 + 299) is one, "what went elsewhere moves nothing"
    assert pins.home(of("s"), 2990.0 + 301) is None


def test_an_endpoint_that_is_gone_for_good_frees_its_sessions_at_once() -> None:
    scheduler = Scheduler(pool(2), SessionAffinity())
    home = home_of(scheduler, "s")
    scheduler.remove(home.name)
    other = send(scheduler, of("s"), 1.0)
    again = scheduler.pool.add(EndpointSpec(home.name, "http://again", models={"m": "m"}))
    again.health.probe_passed()
    assert {send(scheduler, of("s"), 2.0) for _ in range(10)} == {other}, "a namesake is somebody else"


@pytest.mark.parametrize(("lead", "stays"), [(1000.0, True), (1001.0, False)])
def test_a_pinned_endpoint_that_is_too_far_behind_is_passed_over(lead: float, stays: bool) -> None:
    scheduler = Scheduler(pool(2, e0=2.0, e1=2.0), SessionAffinity(max_lead=1000.0))
    home = home_of(scheduler, "s")
    other = next(each for each in scheduler.pool if each is not home)
    scheduler.ledger.book(request(500, 0), other, 0.0)
    burden = scheduler.ledger.book(request(int(500 + 2 * lead), 0), home, 0.0)
    assert (send(scheduler, of("s")) == home.name) is stays
    scheduler.ledger.settle(burden, TerminationCause.COMPLETED)
    assert send(scheduler, of("s")) == home.name


@pytest.mark.parametrize(
    ("usage", "at", "everywhere", "stays"),
    [(0.94, 0.0, False, True), (0.96, 0.0, False, False), (0.96, -10.0, False, True), (0.96, 0.0, True, True)],
    ids=["room", "full", "a stale reading", "full everywhere"],
)
def test_a_pinned_endpoint_whose_cache_is_full_is_passed_over(
    usage: float, at: float, everywhere: bool, stays: bool
) -> None:
    scheduler = Scheduler(pool(2), SessionAffinity())
    home = home_of(scheduler, "s")
    for each in scheduler.pool:
        if everywhere or each is home:
            each.metrics = EndpointMetrics(at=at, kv_usage=usage)
    scheduler.ledger.book(request(500, 0), home, 0.0)
    assert (send(scheduler, of("s")) == home.name) is stays


def test_the_map_is_bounded_and_those_used_longest_ago_go_first() -> None:
    pins, one = Pins(100, 300.0), endpoint()
    for number in range(1000):
        pins.use(of(f"s{number}"), one, number * 0.001)
        pins.use(of("kept"), one, number * 0.001)
    assert len(pins) == 100
    assert pins.home(of("kept"), 1.0) is one
    assert pins.home(of("s0"), 1.0) is None


def test_nothing_that_a_client_sends_is_kept() -> None:
    pins = Pins(10, 300.0)
    pins.use(of("somebody@example.org"), endpoint(), 0.0)
    assert all(isinstance(key, int) for key in pins._pins)
