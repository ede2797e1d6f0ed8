from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint, EndpointSpec
from llmgate.probes.monitor import Monitor
from tests.core.make import state
from tests.probes.fakes import HANGS, REFUSED, FakeEngines, ManualTime, asleep, llamacpp, models, page, settle, vllm
from tests.probes.test_health import Pace


class Fleet:
    """Endpoints a, b, c … watched by a monitor whose time is moved by hand."""

    def __init__(self) -> None:
        self.time = ManualTime()
        self.pool = EndpointPool()
        self.engines = FakeEngines()
        self.monitor = Monitor(
            self.pool,
            self.engines.fetch,
            health=Pace(5.0, 1000.0),
            scrape=Pace(1.0, 1000.0),
            clock=self.time.clock,
            sleep=self.time.sleep,
            rng=Random(7),
        )

    def add(self, name: str) -> Endpoint:
        endpoint = self.pool.add(EndpointSpec(name, f"http://{name}"))
        self.monitor.watch(endpoint)
        return endpoint


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.monitor.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left"


async def test_engines_that_come_up_late_are_used_within_moments(fleet: Fleet) -> None:
    a = fleet.add("a")
    await fleet.time.advance(0.5)
    assert state(a.health) is State.STARTING
    fleet.engines.engines["a"] = vllm()
    await fleet.time.advance(0.5)
    assert state(a.health) is State.UP
    await fleet.time.advance(1.5)
    assert a.metrics is not None
    assert a.metrics.fresh(fleet.time.now)


async def test_it_never_gives_up(fleet: Fleet) -> None:
    a = fleet.add("a")
    await fleet.time.advance(3600)
    fleet.engines.engines["a"] = llamacpp()
    await fleet.time.advance(2)
    assert a.health.available
    assert a.engine == "llamacpp"


async def test_an_endpoint_that_hangs_delays_no_other(fleet: Fleet) -> None:
    fleet.engines.engines = {"a": {**vllm(), "/health": HANGS}, "b": {**vllm(), "/metrics": HANGS}, "c": vllm()}
    a, b, c = fleet.add("a"), fleet.add("b"), fleet.add("c")
    fleet.engines.engines["b"]["/metrics"] = vllm()["/metrics"]
    await fleet.time.advance(1.5)
    fleet.engines.engines["b"]["/metrics"] = HANGS
    await fleet.time.advance(20)
    assert (a.health.state, b.health.state, c.health.state) == (State.STARTING, State.UP, State.UP)
    assert c.metrics is not None
    assert fleet.time.now - c.metrics.at <= 1.2
    assert b.metrics is not None
    assert not b.metrics.fresh(fleet.time.now), "old, and known to be"
    assert fleet.engines.asked["b", "/health"] >= 4, "its health is still asked"


async def test_an_engine_is_asked_no_more_often_than_configured(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    fleet.add("a")
    await fleet.time.advance(100)
    assert 18 <= fleet.engines.asked["a", "/health"] <= 23
    assert 90 <= fleet.engines.asked["a", "/metrics"] <= 113


async def test_a_restart_as_another_engine_is_noticed_by_the_next_probe(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    a = fleet.add("a")
    await fleet.time.advance(2)
    del fleet.engines.engines["a"]
    await fleet.time.advance(1.2)  # a scrape was refused; no health probe yet
    fleet.engines.engines["a"] = llamacpp()
    await fleet.time.advance(6)
    assert (a.engine, a.health.state) == ("llamacpp", State.UP)
    assert a.metrics is not None
    assert (a.metrics.waiting, a.metrics.kv_capacity_tokens) == (4, 4096)


async def test_nothing_is_written_to_an_endpoint_that_is_no_longer_watched(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.monitor.unwatch(a)
    fleet.engines.engines["a"] = vllm()
    await fleet.time.advance(10)
    assert (state(a.health), a.metrics) == (State.STARTING, None)
    fleet.monitor.watch(a)
    await fleet.time.advance(1)
    assert state(a.health) is State.UP


async def test_stopping_ends_probes_that_hang_and_may_be_repeated(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = {"/health": HANGS}
    fleet.add("a")
    await settle()
    await fleet.monitor.stop()
    await fleet.monitor.stop()
    asked = fleet.engines.asked.total()
    await fleet.time.advance(10)
    assert fleet.engines.asked.total() == asked


async def test_watching_twice_is_watching_once(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    fleet.monitor.watch(fleet.add("a"))
    await settle()
    assert fleet.engines.asked["a", "/health"] == 1


async def test_a_fifty_megabyte_page_of_an_engine_harms_nothing(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = {**vllm(), "/metrics": page(b"vllm:x 1\n" * 5_600_000)}
    a = fleet.add("a")
    await fleet.time.advance(3)
    assert (a.engine, a.health.state, a.metrics) == ("vllm", State.UP, None)


async def test_an_engine_that_sleeps_is_not_used_until_it_wakes(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.engines.engines["a"] = vllm()
    a = fleet.add("a")
    await fleet.time.advance(2)
    assert a.health.available
    caplog.clear()
    fleet.engines.engines["a"]["/metrics"] = page(asleep())
    await fleet.time.advance(1.2)
    for _ in range(60):
        assert (a.health.available, a.health.reason) == (False, "asleep")
        await fleet.time.advance(1)
    assert [record.getMessage() for record in caplog.records] == ["a is down: asleep"]
    fleet.engines.engines["a"].update(vllm())
    await fleet.time.advance(4)
    assert a.health.available


async def test_an_engine_that_sleeps_already_when_it_is_met_is_left_out_with_its_first_reading(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = {**vllm(), "/metrics": page(asleep())}
    a = fleet.add("a")
    await fleet.time.advance(1.2)
    assert (a.health.available, a.health.reason) == (False, "asleep")


async def test_an_engine_that_dies_asleep_is_not_called_asleep_and_comes_back_awake(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = {**vllm(), "/metrics": page(asleep())}
    a = fleet.add("a")
    await fleet.time.advance(2)
    del fleet.engines.engines["a"]
    await fleet.time.advance(5)
    assert (a.health.available, a.health.reason) == (False, "/health: connection refused")
    fleet.engines.engines["a"] = {**vllm(), "/metrics": REFUSED}
    await fleet.time.advance(4)
    assert a.health.available


async def test_one_lost_answer_does_not_wake_an_engine_that_sleeps(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = {**vllm(), "/metrics": page(asleep())}
    a = fleet.add("a")
    await fleet.time.advance(3)
    fleet.engines.engines["a"]["/health"] = page(status=500)
    await fleet.time.advance(1)
    fleet.engines.engines["a"]["/health"] = page()
    for _ in range(40):
        await fleet.time.advance(0.25)
        assert not a.health.available


async def test_a_reading_does_not_outlive_its_engine(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    a = fleet.add("a")
    await fleet.time.advance(2)
    assert a.metrics is not None
    del fleet.engines.engines["a"]
    await fleet.time.advance(20)
    fleet.engines.engines["a"] = {"/v1/models": models("m")}
    await fleet.time.advance(20)
    assert (a.engine, a.health.available) == ("openai", True)
    assert not a.metrics


async def test_another_pace_holds_from_now_on_and_everyone_is_asked_at_once(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    a = fleet.add("a")
    await fleet.time.advance(10)
    asked, times = fleet.engines.asked["a", "/health"], a.health
    fleet.monitor.set_pace(Pace(100.0, 1000.0), Pace(100.0, 1000.0))
    await fleet.time.advance(0)
    assert fleet.engines.asked["a", "/health"] == asked + 1
    metrics = fleet.engines.asked["a", "/metrics"]
    await fleet.time.advance(50)
    assert fleet.engines.asked["a", "/health"] == asked + 1
    assert fleet.engines.asked["a", "/metrics"] - metrics <= 1  # one more when the engine had been learnt anew
    assert state(times) is State.UP


async def test_one_that_is_watched_anew_learns_what_it_is_again_and_stays_up_meanwhile(fleet: Fleet) -> None:
    fleet.engines.engines["a"] = vllm()
    a = fleet.add("a")
    await fleet.time.advance(3)
    fleet.engines.engines["a"] |= {"/v1/models": HANGS}
    fleet.monitor.rewatch(a)
    await fleet.time.advance(1)
    assert state(a.health) is State.UP
    fleet.monitor.unwatch(a)
    fleet.engines.engines["a"] |= {"/v1/models": models("other")}
    fleet.monitor.rewatch(a)
    await fleet.time.advance(1)
    assert a.models == {"tiny": "tiny"}, "it is not watched any more"
    fleet.monitor.watch(a)
    await fleet.time.advance(1)
    assert a.models == {"other": "other"}
