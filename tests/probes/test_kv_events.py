"""Rules of probes/kv_events.py: engines are scripted, sockets are real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from random import Random

import msgspec
import pytest

from llmgate.core.blocks import BlockIndex
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointSpec, KvEventSource
from llmgate.probes.kv_events import SOURCES_PATH, KvEvents
from llmgate.probes.monitor import Monitor
from llmgate.probes.page import Page
from tests.probes.fakes import REFUSED, FakeEngines, ManualTime, page, vllm
from tests.probes.kv_make import SIZE, keys, stored
from tests.probes.kv_publisher import Publisher, until


@dataclass(frozen=True)
class Pace:
    interval: float = 1.0
    timeout: float = 1.0


class Watched:
    """The endpoint `e`, watched as a gateway does."""

    def __init__(self) -> None:
        self.engines = FakeEngines(e=vllm())
        self.time = ManualTime()
        self.index = BlockIndex()
        self.pool = EndpointPool([EndpointSpec("e", "http://127.0.0.1:8000")])
        self.monitor = Monitor(
            self.pool,
            self.engines.fetch,
            health=Pace(),
            scrape=Pace(),
            clock=self.time.clock,
            sleep=self.time.sleep,
            rng=Random(1),
            kv_events=KvEvents(self.index, lambda: 0.0),
        )
        (self.endpoint,) = self.pool

    def watch(self) -> None:
        self.monitor.watch(self.endpoint)

    def configure(self, **changes: object) -> None:
        self.pool.update(self.endpoint, replace(self.endpoint.spec, **changes))  # type: ignore[arg-type]

    async def look(self, times: int = 1) -> None:
        await self.time.advance(1.2 * times)

    def holds(self, blocks: int) -> bool:
        return self.index.matched(keys()).get(self.endpoint.slot, 0) == blocks


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    yield made
    await made.monitor.stop()


def sources(*ranks: Publisher) -> Page:
    return page(msgspec.json.encode({str(rank): publisher.said for rank, publisher in enumerate(ranks)}))


async def test_where_a_vllm_tells_of_its_cache_is_asked_of_it(watched: Watched) -> None:
    with Publisher() as engine:
        watched.engines.engines["e"][SOURCES_PATH] = sources(engine)
        watched.watch()
        await watched.look(2)
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: watched.holds(3))
        assert watched.index.live(watched.endpoint.slot) == SIZE
        assert watched.engines.asked["e", SOURCES_PATH] == 1, "once a start"


async def test_each_rank_is_followed_and_the_best_one_counts(watched: Watched) -> None:
    with Publisher() as one, Publisher() as two:
        watched.engines.engines["e"][SOURCES_PATH] = sources(one, two)
        watched.watch()
        await watched.look(2)
        await one.wait()
        await two.wait()
        one.publish(stored(0, 2))
        await until(lambda: watched.holds(2))
        assert watched.index.live(watched.endpoint.slot) == 0, "one of two"
        two.publish(stored(0, 3))
        await until(lambda: watched.holds(3))
        assert watched.index.live(watched.endpoint.slot) == SIZE


@pytest.mark.parametrize("answer", [None, page(b"{}"), page(b"nonsense"), page(status=500), REFUSED])
async def test_without_events_there_is_no_source_and_the_engine_is_up(watched: Watched, answer: object) -> None:
    watched.engines.engines["e"][SOURCES_PATH] = answer  # type: ignore[assignment]
    watched.watch()
    await watched.look(3)
    assert watched.index.sources(watched.endpoint.slot) == []
    assert watched.endpoint.health.available


async def test_a_failure_to_say_where_is_told_once_and_asked_again(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.engines.engines["e"][SOURCES_PATH] = page(b"nonsense")
    watched.watch()
    await watched.look(20)
    assert [record.message for record in caplog.records if "KV" in record.message] == [
        (
            "e: where its KV events come from is not known (sources that are none: JSON is malformed: "
            "invalid character (byte 4)): what was routed there is judged by instead"
        )
    ]
    with Publisher() as engine:
        watched.engines.engines["e"][SOURCES_PATH] = sources(engine)
        await watched.look(10)
        await engine.wait()


async def test_an_engine_that_was_away_is_asked_anew_and_its_cache_is_not_known(watched: Watched) -> None:
    with Publisher() as before, Publisher() as after:
        engine = watched.engines.engines["e"]
        engine[SOURCES_PATH] = sources(before)
        watched.watch()
        await watched.look(2)
        await before.wait()
        before.publish(stored(0, 3))
        await until(lambda: watched.holds(3))
        del watched.engines.engines["e"]
        await watched.look(3)
        engine[SOURCES_PATH] = sources(after)
        watched.engines.engines["e"] = engine
        await watched.look(3)
        await before.gone()
        await after.wait()
        assert watched.holds(0)


async def test_the_configuration_may_say_where_and_may_say_no(watched: Watched) -> None:
    with Publisher() as stated, Publisher() as told:
        watched.engines.engines["e"][SOURCES_PATH] = sources(told)
        watched.configure(kv_events=KvEventSource(stated.endpoint, topic="kv"))
        watched.watch()
        await watched.look(2)
        await stated.wait()
        assert watched.engines.asked["e", SOURCES_PATH] == 0
        watched.configure(kv_events="auto")
        await watched.look(2)
        await stated.gone()
        await told.wait()
        watched.configure(kv_events="off")
        await watched.look(2)
        await told.gone()
        assert watched.index.sources(watched.endpoint.slot) == []


async def test_an_endpoint_that_leaves_is_followed_no_more(watched: Watched) -> None:
    with Publisher() as engine:
        watched.engines.engines["e"][SOURCES_PATH] = sources(engine)
        watched.watch()
        await watched.look(2)
        await engine.wait()
        watched.monitor.unwatch(watched.endpoint)
        await engine.gone()
        assert watched.index.sources(watched.endpoint.slot) == []


async def test_an_address_that_cannot_be_had_leaves_it_to_what_was_routed(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher() as engine:
        taken = engine.endpoint.replace("127.0.0.1", "*")
        watched.configure(kv_events=KvEventSource(taken))
        watched.watch()
        await watched.look(3)
        assert watched.index.sources(watched.endpoint.slot) == []
        assert [record.message for record in caplog.records if "KV" in record.message] == [
            (
                f"e: its KV events cannot be followed at {taken}: Address already in use: "
                "what was routed there is judged by instead"
            )
        ]
