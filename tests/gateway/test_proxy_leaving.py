"""A client that leaves takes its request along, at once; one that reads slowly slows the engine down."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmgate.core.health import State
from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, ReceivedRequest, chunk
from llmgate.tokens import Counted, Pending
from llmgate.wire.headers import Header
from tests.support.fake_engine import FakeEngine, completion, gone, stream, until
from tests.support.raw_client import RawClient, connect, post
from tests.support.serving import HELLO, STREAMED, Served, serving

BOTH_LOOPS = True  # they differ in how they close and reset

MIB = 1024 * 1024
EVENT = b'data: {"n": 1}\n\n'
PART = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart of it"

WAYS = pytest.mark.parametrize("leave", [RawClient.leave, RawClient.reset, RawClient.half_close])


async def left(served: Served) -> None:
    """Waits until the gateway has noticed and settled, and sees that it was nobody's fault."""
    await served.settled()
    assert dict(served.gateway.scheduler.ledger.causes) == {TerminationCause.CLIENT_GONE: 1}
    assert served.state("a") is State.UP


@WAYS
async def test_leaving_before_the_answer_closes_the_engines_connection(leave: Callable[[RawClient], None]) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            assert served.open_charges == 1
            leave(client)
            await gone(request)
        await left(served)
        assert await served.metric('llmgate_requests_total{model="m",endpoint="a",code="499"}') == 1


@WAYS
async def test_leaving_after_the_head_closes_the_engines_connection(leave: Callable[[RawClient], None]) -> None:
    """That is during prefill, for engines that answer the head at once."""
    async with FakeEngine() as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD)
            leave(client)
            await gone(request)
        await left(served)


@WAYS
async def test_leaving_in_the_middle_of_a_stream_closes_the_engines_connection(
    leave: Callable[[RawClient], None],
) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD, chunk(EVENT))
            await client.head()
            assert await client.chunk() == EVENT
            leave(client)
            await gone(request)
        await left(served)


async def test_leaving_a_whole_answer_in_its_middle_closes_the_engines_connection() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(HELLO))
            request = await engine.request()
            await request.send(PART)
            await client.head()
            client.leave()
            await gone(request)
        await left(served)


async def test_leaving_is_no_reason_to_try_another_endpoint() -> None:
    async with FakeEngine() as a, FakeEngine() as b, serving(a, b) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            await until(lambda: len(a.asked) + len(b.asked) == 1)
            client.leave()
            await gone((a.asked or b.asked)[0])
        await served.settled()
        assert len(a.asked) + len(b.asked) == 1


async def test_leaving_during_the_second_attempt_closes_that_one() -> None:
    async def busy_at_first(request: ReceivedRequest) -> None:
        if len(a.asked) + len(b.asked) == 1:
            await request.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")

    async with FakeEngine(busy_at_first) as a, FakeEngine(busy_at_first) as b, serving(a, b) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            await until(lambda: len(a.asked) + len(b.asked) == 2)
            client.leave()
            await until(lambda: any(r.connection.closed.is_set() for r in (*a.asked, *b.asked)))
        await served.settled()
        causes = served.gateway.scheduler.ledger.causes
        assert causes == {TerminationCause.REFUSED: 1, TerminationCause.CLIENT_GONE: 1}


async def test_leaving_with_the_body_half_sent_asks_no_engine() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        others = served.client_connections
        async with connect(served.gateway.data_port) as client:
            client.send(post(HELLO)[:-5])
            await until(lambda: served.client_connections == others + 1)
            client.leave()
            await until(lambda: served.client_connections == others)
        assert not engine.asked
        assert not served.gateway.scheduler.ledger.causes


async def test_leaving_while_the_prompt_is_counted_leaves_no_work_for_an_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting, go_on = threading.Event(), threading.Event()

    def slowly() -> Counted:
        counting.set()
        assert go_on.wait(5)
        return Counted(1000)

    monkeypatch.setattr("llmgate.gateway.intake.prepare_prompt", lambda *_: Pending(10**9, slowly))
    long = STREAMED | {"messages": [{"role": "user", "content": "Hello " * 1000}]}
    async with FakeEngine() as engine, serving(engine, models=[{"name": "m", "tokenizer": "embedded"}]) as served:
        others = served.client_connections
        async with connect(served.gateway.data_port) as client:
            client.send(post(long))
            await until(counting.is_set)
            client.leave()
            await until(lambda: served.client_connections == others)
        go_on.set()
        await until(lambda: not served.tasks)
        assert not engine.asked


async def test_the_next_request_on_a_connection_is_not_taken_for_the_one_before() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            for _ in range(3):
                client.send(post(HELLO))
                head, _ = await client.answer()
                assert head.status == 200
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.COMPLETED: 3}


async def test_a_slow_client_holds_the_engine_back_and_loses_nothing() -> None:
    size, pieces = MIB, 40
    sent = 0

    async def pour(request: ReceivedRequest) -> None:
        nonlocal sent
        await request.send(STREAM_HEAD)
        for _ in range(pieces):
            await request.send(chunk(b"x" * size))
            sent += 1
        await request.send(LAST_CHUNK)

    async with FakeEngine(pour) as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        client.pause()
        client.send(post(STREAMED))
        await stalled(lambda: sent)
        assert 0 < sent < pieces - 10, sent  # what the sockets' own buffers take
        assert served.unsent < MIB
        client.resume()
        head = await client.head()
        assert len(await client.body(head)) == pieces * size


async def stalled(progress: Callable[[], int]) -> None:
    """Waits until it has begun and then stood still for a while."""
    await until(lambda: progress() > 0)
    last = -1
    while progress() != last:
        last = progress()
        await asyncio.sleep(0.2)


async def test_a_client_that_stops_reading_and_then_leaves_is_noticed() -> None:
    async def pour(request: ReceivedRequest) -> None:
        await request.send(STREAM_HEAD, *[chunk(b"x" * MIB)] * 64)

    async with FakeEngine(pour) as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.pause()
            client.send(post(STREAMED))
            request = await engine.request()
            await until(lambda: request.connection.unsent > 0)
            client.reset()
            await gone(request)
        await left(served)


class Stuck:
    """A client that takes nothing any more, but does not leave."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.headers: list[Header] = []
        self.target = b"/v1/chat/completions"
        self.body = json.dumps(body).encode()
        self.gone = False
        self.sent = 0
        self.peer = ""
        self.written: list[tuple[bytes, bool]] = []

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        return self.write(body, more)

    def write(self, body: bytes, more: bool) -> bool:
        self.written.append((body, more))
        return False

    async def drained(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_has_ended_holds_neither_charge_nor_engine_for_a_client_that_does_not_take_it(
    streamed: bool,
) -> None:
    whole = b"".join(stream(EVENT)) if streamed else completion()
    async with FakeEngine([whole]) as engine, serving(engine) as served:
        client = Stuck(STREAMED if streamed else HELLO)
        serves = asyncio.create_task(served.serve(client))
        await until(lambda: dict(served.gateway.scheduler.ledger.causes) == {TerminationCause.COMPLETED: 1})
        assert served.open_charges == 0
        assert not served.upstream_connections_in_use
        written = list(client.written)
        assert not written[-1][1], "the last byte has been handed over"
        serves.cancel()  # as the server does at the drain's deadline
        await asyncio.wait([serves])
        assert client.written == written, "nothing may follow it"
        assert await served.metric('llmgate_requests_total{model="m",endpoint="a",code="200"}') == 1
