"""pump() keeps the promises of read(), for both clients on both event loops."""

from __future__ import annotations

import asyncio

import pytest

from llmgate.core.errors import IdleTimeout, Truncated
from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    FakeUpstream,
    ReceivedRequest,
    Script,
    answer,
    chunk,
)
from llmgate.upstream.base import Target, Timeouts, UpstreamClient, UpstreamResponse

PATIENT = Timeouts(connect=5.0, first_byte=5.0, idle=5.0)


class Sink:
    """Takes pieces; says no after each of the first `refusals`, and counts how often it was waited for."""

    def __init__(self, refusals: int = 0) -> None:
        self.pieces: list[bytes] = []
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waits = 0
        self.waiting = asyncio.Event()
        self._refusals = refusals

    def take(self, piece: bytes) -> bool:
        assert not self.waiting.is_set(), "nothing may come while the sink is waited for"
        self.pieces.append(piece)
        self.came.set()
        return len(self.pieces) > self._refusals

    async def drained(self) -> None:
        self.waits += 1
        self.waiting.set()
        await self.gate.wait()
        self.waiting.clear()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


async def open_stream(client: UpstreamClient, up: FakeUpstream, idle: float = 5.0) -> UpstreamResponse:
    return await client.open(Target.parse(up.url), "POST", b"/v1/x", (), b"{}", Timeouts(5.0, 5.0, idle))


async def test_each_piece_is_given_as_it_comes(client: UpstreamClient) -> None:
    sink = Sink()
    async with FakeUpstream() as up:
        opening = asyncio.create_task(open_stream(client, up))
        request = await up.request()
        await request.send(STREAM_HEAD)
        response = await opening
        pumping = asyncio.create_task(response.pump(sink.take, sink.drained))
        for number in range(5):
            sink.came.clear()
            await request.send(chunk(b"event %d" % number))
            await sink.came.wait()
        await request.send(LAST_CHUNK)
        await pumping
        assert sink.pieces == [b"event %d" % number for number in range(5)]
        assert sink.waits == 0
        assert response.ended
        response.close()


async def test_what_was_buffered_before_is_given_first(client: UpstreamClient) -> None:
    sink = Sink()
    async with FakeUpstream([answer(b"x" * 50_000)]) as up:
        response = await open_stream(client, up)
        first = await response.read()
        await response.pump(sink.take, sink.drained)
        assert first + sink.data == b"x" * 50_000
        response.close()


async def test_a_sink_that_refuses_is_waited_for_and_loses_nothing(client: UpstreamClient) -> None:
    sink = Sink(refusals=3)
    sink.gate.clear()
    async with FakeUpstream() as up:
        opening = asyncio.create_task(open_stream(client, up))
        request = await up.request()
        await request.send(STREAM_HEAD, chunk(b"one "))
        pumping = asyncio.create_task((await opening).pump(sink.take, sink.drained))
        await sink.waiting.wait()
        await request.send(chunk(b"two "), chunk(b"three "))
        sink.gate.set()
        await request.send(chunk(b"four"), LAST_CHUNK)
        await pumping
        assert sink.data == b"one two three four"
        assert sink.waits >= 1


async def test_a_sink_that_never_drains_holds_the_engine_back(client: UpstreamClient) -> None:
    sink = Sink(refusals=1)
    sink.gate.clear()
    piece, pieces, sent = b"x" * 256 * 1024, 200, 0
    async with FakeUpstream() as up:

        async def pour(request: ReceivedRequest) -> None:
            nonlocal sent
            await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * pieces))
            for _ in range(pieces):
                await request.send(piece)
                sent += 1

        opening = asyncio.create_task(open_stream(client, up))
        pouring = asyncio.create_task(pour(await up.request()))
        response = await opening
        pumping = asyncio.create_task(response.pump(sink.take, sink.drained))
        before, still = 0, 0
        while still < 100:  # turns of the loop in which nothing moved
            await asyncio.sleep(0)
            still = still + 1 if before == sent else 0
            before = sent
        assert sent < pieces // 2
        sink.gate.set()
        await asyncio.gather(pumping, pouring)
        assert len(sink.data) == len(piece) * pieces
        response.close()


@pytest.mark.parametrize("end", [[CLOSE], [RESET], [b"nonsense\r\n"]], ids=["closed", "reset", "bad chunk"])
async def test_a_body_that_breaks_off_is_truncated(client: UpstreamClient, end: Script) -> None:
    sink = Sink()
    go_on = asyncio.Event()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), go_on, *end]) as up:
        response = await open_stream(client, up)
        pumping = asyncio.create_task(response.pump(sink.take, sink.drained))
        await sink.came.wait()
        go_on.set()
        with pytest.raises(Truncated):
            await pumping
        response.close()
        assert sink.data == b"one"


async def test_a_pause_that_is_too_long_is_a_timeout_counted_from_the_last_piece(client: UpstreamClient) -> None:
    sink = Sink()
    async with FakeUpstream() as up:
        opening = asyncio.create_task(open_stream(client, up, idle=0.3))
        request = await up.request()
        await request.send(STREAM_HEAD)
        pumping = asyncio.create_task((await opening).pump(sink.take, sink.drained))
        for _ in range(5):  # together longer than the timeout
            await request.send(chunk(b"."))
            await asyncio.sleep(0.1)
        assert not pumping.done()
        with pytest.raises(IdleTimeout):
            await pumping
        assert sink.data == b"....."
        await up.closed()


async def test_cancelling_and_closing_drops_the_connection(client: UpstreamClient) -> None:
    sink = Sink()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one")]) as up:
        response = await open_stream(client, up)
        pumping = asyncio.create_task(response.pump(sink.take, sink.drained))
        await sink.came.wait()
        pumping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pumping
        response.close()
        await up.closed()


async def test_the_connection_is_reused_after_a_pumped_answer(client: UpstreamClient) -> None:
    sink = Sink()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), chunk(b"two"), LAST_CHUNK]) as up:
        for _ in range(3):
            response = await open_stream(client, up)
            await response.pump(sink.take, sink.drained)
            response.close()
        assert len(up.connections) == 1
        assert sink.data == b"onetwo" * 3
