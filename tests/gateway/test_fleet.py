"""Endpoints come and go in any order, under traffic: the books stay right and nobody is forgotten or kept."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.errors import NoReadyEndpoint
from llmgate.core.ledger import Charge
from llmgate.core.pool import EndpointPool
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec, TerminationCause
from llmgate.gateway.fleet import Fleet, Member
from llmgate.gateway.proxy import Destination
from llmgate.probes.monitor import Monitor
from llmgate.routing import registry
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, UpstreamClient
from tests.core import make
from tests.probes.fakes import ManualTime, settle

DRAIN = 10.0
NAMES = ("a", "b", "c")
URLS = ("http://one", "http://two", "http://three")


class FakeMonitor:
    """Everything that is watched is up."""

    def __init__(self) -> None:
        self.watched: set[Endpoint] = set()

    def watch(self, endpoint: Endpoint) -> None:
        self.watched.add(endpoint)
        endpoint.health.probe_passed()

    def unwatch(self, endpoint: Endpoint) -> None:
        self.watched.discard(endpoint)

    def rewatch(self, endpoint: Endpoint) -> None:
        assert endpoint in self.watched


class World:
    """A fleet, its traffic, and what it should be by a simple account of its own."""

    def __init__(self) -> None:
        self.time = ManualTime()
        self.pool = EndpointPool()
        self.scheduler = Scheduler(self.pool, registry.create("prefix-affinity"))
        self.monitor = FakeMonitor()
        self.destinations: dict[str, Destination] = {}
        self.cuts: list[Target] = []
        self.fleet = Fleet(
            self.scheduler,
            Metrics(self.pool, self.time.clock),
            cast("Monitor", self.monitor),
            cast("UpstreamClient", self),
            self.destinations,
            drain=DRAIN,
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self.wanted: dict[str, str] = {}
        self.charges: list[Charge] = []
        self.everyone: set[Endpoint] = set()

    def cut(self, target: Target) -> None:
        assert all(each.target != target for each in self.destinations.values()), "others are cut off as well"
        self.cuts.append(target)

    def apply(self, wanted: dict[str, str]) -> None:
        before = {endpoint.name: endpoint for endpoint in self.pool}
        self.fleet.apply([member(name, url) for name, url in wanted.items()])
        for name, url in wanted.items():
            if name in before and before[name].spec.url == url:
                assert self.pool.get(name) is before[name], "one that stays is the same"
        self.wanted = wanted

    def add(self, name: str, url: str) -> None:
        self.fleet.add(member(name, url))
        self.wanted = self.wanted | {name: url}

    def remove(self, name: str) -> None:
        endpoint = self.pool.get(name)
        if endpoint is not None:
            self.fleet.remove(endpoint)
        self.wanted = {each: url for each, url in self.wanted.items() if each != name}

    def begin(self) -> None:
        request = make.request(100, 10, prefix=(1, 2, 3))
        try:
            decision = self.scheduler.schedule(request, self.time.now)
        except NoReadyEndpoint:
            assert not self.wanted
            return
        assert self.wanted[decision.endpoint.name] == decision.endpoint.spec.url, "nothing new goes to who leaves"
        self.charges.append(self.scheduler.book(request, decision, self.time.now))

    def finish(self, number: int) -> None:
        if self.charges:
            charge = self.charges.pop(number % len(self.charges))
            assert self.scheduler.settle(charge, TerminationCause.COMPLETED, self.time.now)

    def check(self) -> None:
        self.everyone.update(self.pool)
        assert sum(endpoint.load.requests for endpoint in self.everyone) == len(self.charges)
        assert self.scheduler.ledger.open_charges == len(self.charges)
        assert {endpoint.name for endpoint in self.pool} == self.destinations.keys() >= self.wanted.keys()
        assert self.monitor.watched == set(self.pool)
        for endpoint in self.pool:
            assert self.fleet.is_leaving(endpoint) == (self.wanted.get(endpoint.name) != endpoint.spec.url)
            assert endpoint.draining == self.fleet.is_leaving(endpoint)
        assert len({endpoint.slot for endpoint in self.pool}) == len(self.pool)


def member(name: str, url: str) -> Member:
    return Member(EndpointSpec(name, url, models={"m": "m"}), Destination(Target.parse(url)))


STEPS = st.one_of(
    st.tuples(st.just("apply"), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(URLS))),
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.sampled_from(URLS)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES)),
    st.tuples(st.just("begin")),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("advance"), st.floats(0.05, DRAIN)),
)


@given(steps=st.lists(STEPS, max_size=40))
def test_whatever_comes_the_books_are_right_and_only_those_wanted_are_left(steps: list[tuple[object, ...]]) -> None:
    async def live() -> None:
        world = World()
        for name, *arguments in steps:
            if name == "advance":
                await world.time.advance(cast("float", arguments[0]))
            else:
                getattr(world, str(name))(*arguments)
                await settle()
            world.check()
        await world.time.advance(DRAIN + 1)  # whoever leaves has left by then, whatever is still in flight
        world.check()
        assert {endpoint.name: endpoint.spec.url for endpoint in world.pool} == world.wanted
        while world.charges:
            world.finish(0)
        assert all(
            (each.load.requests, each.load.prefill_tokens, each.load.decode_tokens) == (0, 0, 0)
            for each in world.everyone
        )
        await world.fleet.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(live())


async def test_one_with_nothing_in_flight_leaves_at_once_and_one_with_something_as_soon_as_it_is_done() -> None:
    world = World()
    world.apply({"a": URLS[0], "b": URLS[1]})
    world.begin()
    busy = world.charges[0].endpoint
    (idle,) = (endpoint for endpoint in world.pool if endpoint is not busy)
    world.apply({})
    await world.time.advance(0)
    assert list(world.pool) == [busy]
    await world.time.advance(DRAIN / 2)
    assert list(world.pool) == [busy]
    world.finish(0)
    await world.time.advance(0.2)
    assert not len(world.pool)
    assert world.cuts == [Target.parse(idle.spec.url), Target.parse(busy.spec.url)]
