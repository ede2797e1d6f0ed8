"""Who watches, and what they see."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmgate.config import ConfigFile, load_file
from llmgate.core.gpu import Gpu, GpuReading
from llmgate.core.gpus import Gpus
from llmgate.core.pool import EndpointPool
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, EndpointSpec
from llmgate.gateway import live as live_module
from llmgate.gateway.asgi import Message
from llmgate.gateway.live import MOST_WATCHERS, Live
from llmgate.routing import registry
from tests.core import make
from tests.support.fake_engine import FakeEngine, completion, gone, in_turn, sse, stream, until
from tests.support.live import snapshots_of
from tests.support.serving import HELLO, STREAMED, config_data, serving

NOW = 1000.0


def scheduler_of(pool: EndpointPool) -> Scheduler:
    return Scheduler(pool, registry.create("round-robin"))


class Watcher:
    """The other end of a stream. It takes what comes while it is `ready`."""

    def __init__(self, live: Live) -> None:
        self.taken: list[bytes] = []
        self.ready = asyncio.Event()
        self.ready.set()
        self.ended = False
        self._left = asyncio.Event()
        self.task = asyncio.create_task(live.stream({}, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.taken]

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.ready.wait()
        if message["type"] == "http.response.body":
            self.ended = not message["more_body"]
            self.taken += [message["body"]] if message["body"] else []


@pytest.fixture
def live() -> Live:
    return Live(snapshots_of(scheduler_of(make.pool(2)), lambda: NOW))


async def turn() -> None:
    """Lets everybody who can do something do it."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_watcher_gets_the_history_first_and_then_a_line_with_each_beat(live: Live) -> None:
    live.start()
    watcher = Watcher(live)
    await turn()
    live.beat()
    await turn()
    live.stop()
    await watcher.task
    assert watcher.ended
    first, second = watcher.snapshots
    assert first["history"]["totals"]["requests"] == [0.0]
    assert second["history"] is None
    assert [each["name"] for each in second["endpoints"]] == ["e0", "e1"]
    assert all(line.endswith(b"\n") for line in watcher.taken)


async def test_a_line_is_made_once_for_all_and_not_at_all_for_nobody(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    take = live.snapshots.take

    def counting(*, history: bool) -> Any:
        taken.append(history)
        return take(history=history)

    monkeypatch.setattr(live.snapshots, "take", counting)
    live.start()
    live.beat()
    assert taken == []
    watchers = [Watcher(live) for _ in range(3)]
    await turn()
    live.beat()
    await turn()
    assert taken == [True, True, True, False]
    live.stop()
    await asyncio.gather(*(watcher.task for watcher in watchers))


async def test_a_slow_watcher_misses_lines_and_holds_nobody_up(live: Live) -> None:
    live.start()
    slow, quick = Watcher(live), Watcher(live)
    await turn()
    slow.ready.clear()
    for _ in range(5):
        live.beat()
        await turn()
    assert (len(slow.taken), len(quick.taken)) == (1, 6)
    slow.ready.set()
    await turn()
    assert len(slow.taken) == 2
    live.beat()
    await turn()
    assert len(slow.taken) == 3
    live.stop()
    await asyncio.gather(slow.task, quick.task)


async def test_a_watcher_that_takes_nothing_is_dropped(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "STALLED_SECONDS", 0.01)
    watcher = Watcher(live)
    await turn()
    watcher.ready.clear()
    live.start()
    await asyncio.wait_for(watcher.task, 10)
    assert not watcher.ended
    assert live.watchers == 0
    live.stop()


async def test_one_that_has_left_is_noticed_at_the_next_beat(live: Live) -> None:
    live.start()
    watcher = Watcher(live)
    await turn()
    assert live.watchers == 1
    watcher.leave()
    live.beat()
    await turn()
    assert (live.watchers, watcher.task.done(), len(watcher.taken)) == (0, True, 1)
    live.stop()


async def test_one_that_is_dismissed_while_it_takes_a_line_gets_no_other(live: Live) -> None:
    live.start()
    watcher = Watcher(live)
    watcher.ready.clear()
    await turn()
    live.dismiss()
    watcher.ready.set()
    await asyncio.wait_for(watcher.task, 10)
    assert (watcher.ended, len(watcher.taken)) == (True, 1)
    live.stop()


# Snapshots


def test_a_snapshot_tells_of_an_endpoint_what_the_gateway_and_the_engine_know() -> None:
    pool = EndpointPool([EndpointSpec("a", "http://a", models={"m": "m"}, gpu="H100", gpus=[0])])
    scheduler = scheduler_of(pool)
    (endpoint,) = pool
    endpoint.health.probe_passed()
    endpoint.metrics = EndpointMetrics(NOW - 2, running=3, waiting=1, kv_usage=0.5)
    gpus = Gpus(pool, "here")
    reading = GpuReading(
        Gpu("here", 0, "GPU-1", "H100"), NOW, utilization=0.9, memory_used=7, memory_total=8, temperature=60, power=500
    )
    gpus.take_in(reading.gpu.node, [reading])
    decision = scheduler.schedule(make.request(), NOW - 1)
    scheduler.book(make.request(100, 50), decision, NOW - 1)
    snapshot = snapshots_of(scheduler, lambda: NOW, gpus).take(history=False)
    shown = json.loads(snapshot.model_dump_json())
    (live,) = shown["endpoints"]
    assert live["in_flight"] == {"requests": 1, "prefill_tokens": 100, "decode_tokens": 50}
    assert (live["state"], live["gauges"]["kv_usage"], live["gauges"]["running"]) == ("up", 0.5, 3)
    assert live["gpus"] == [
        {
            "gpu": "0",
            "name": "H100",
            "utilization": 0.9,
            "memory_used": 7,
            "memory_total": 8,
            "temperature": 60.0,
            "power": 500.0,
            "state": "ok",
            "reason": "",
        }
    ]
    totals = shown["totals"]
    assert (totals["endpoints"], totals["ready"], totals["running"], totals["waiting"]) == (1, 1, 3, 1)
    assert totals["in_flight"] == live["in_flight"]
    (brief,) = shown["decisions"]
    assert (brief["endpoint"], brief["age_seconds"], brief["candidates"], brief["tied"]) == ("a", 1.0, 1, 1)


def test_what_no_engine_tells_is_unknown_and_not_zero(live: Live) -> None:
    totals = live.snapshots.take(history=False).totals
    assert (totals.running, totals.waiting) == (None, None)


def test_a_draining_endpoint_is_not_counted_as_ready() -> None:
    pool = make.pool(2)
    first, _ = pool
    pool.set_draining(first, True)
    totals = snapshots_of(scheduler_of(pool), lambda: NOW).take(history=False).totals
    assert (totals.endpoints, totals.ready) == (2, 1)


# Over sockets

ANSWER = completion()
EVENTS = stream(*sse({"choices": [{"delta": {"content": "hello"}}]}))


async def test_the_stream_shows_requests_as_they_come_and_ends_with_the_gateway() -> None:
    async with FakeEngine(EVENTS) as engine, serving(engine) as served:
        async with served.admin.stream("GET", "/api/live") as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = answer.aiter_lines()
            first = json.loads(await anext(lines))
            assert first["gateway"]["port"] == served.gateway.data_port
            assert first["decisions"] == []
            await served.chat(STREAMED)
            served.gateway.live.beat()
            second = json.loads(await anext(lines))
            assert second["totals"]["rates"]["requests"] > 0
            assert second["decisions"][0]["endpoint"] == "a"
            served.gateway.stop()
            async for line in lines:
                json.loads(line)
        await served.ends()


async def test_a_client_that_leaves_makes_room_for_another() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        live = served.gateway.live
        async with served.admin.stream("GET", "/api/live") as answer:
            await anext(answer.aiter_lines())
            assert live.watchers == 1

        def seen_to_have_gone() -> bool:
            live.beat()
            return live.watchers == 0

        await until(seen_to_have_gone)


async def test_there_is_an_end_to_how_many_may_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        monkeypatch.setattr(served.gateway.live, "_watchers", MOST_WATCHERS)
        answer = await served.admin.get("/api/live")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert (await served.admin.get("/api/snapshot")).json()["history"]["totals"]["requests"]


async def test_a_reload_of_the_token_ends_streams_that_began_with_the_old_one(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        file = tmp_path / "llmgate.yaml"
        file.write_text(json.dumps(config_data(engine, admin={"token": "old"})))
        async with serving(source=ConfigFile(file, lambda: load_file(file, {}))) as served:
            headers = {"authorization": "Bearer old"}
            async with served.admin.stream("GET", "/api/live", headers=headers) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                file.write_text(json.dumps(config_data(engine, admin={"token": "new"})))
                await served.gateway.reload()
                async with asyncio.timeout(10):
                    assert len([line async for line in lines]) < 5  # it ends; a beat may have come meanwhile
            assert (await served.admin.get("/api/live", headers=headers)).status_code == 401


# The chat


async def test_a_chat_by_the_admin_port_is_one_by_the_data_port() -> None:
    async with FakeEngine(in_turn(EVENTS, EVENTS, [ANSWER])) as engine, serving(engine) as served:
        there = await served.chat(STREAMED)
        here = await served.admin.post("/api/chat", json=STREAMED)
        assert (here.status_code, here.headers["x-llmgate-endpoint"]) == (200, "a")
        assert here.headers["content-type"] == there.headers["content-type"]
        assert here.content == there.content
        assert (await served.admin.post("/api/chat", json=HELLO | {"model": "nobody"})).status_code == 404
        assert await served.metric('llmgate_requests_total{model="m",endpoint="a",code="200"}') == 2


async def test_the_operators_token_reaches_no_engine_even_where_credentials_are_forwarded() -> None:
    async with (
        FakeEngine([ANSWER]) as engine,
        serving(engine, server={"forward_authorization": True}, admin={"token": "canary"}) as served,
    ):
        assert (await served.admin.post("/api/chat", json=HELLO)).status_code == 401
        headers = {"authorization": "Bearer canary", "cookie": "canary=1"}
        answer = await served.admin.post("/api/chat?q=canary", json=HELLO, headers=headers)
        assert answer.status_code == 200
        (asked,) = engine.asked
        assert b"canary" not in asked.path + asked.body + repr(asked.headers).encode()


async def test_a_client_that_leaves_its_chat_frees_the_engine() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        chat = asyncio.create_task(served.admin.post("/api/chat", json=STREAMED))
        asked = await engine.request()
        chat.cancel()
        await gone(asked)
        await served.settled()
