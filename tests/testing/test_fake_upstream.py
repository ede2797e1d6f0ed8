from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    FakeUpstream,
    ReceivedRequest,
    answer,
    chunk,
)

REQUEST = b"POST /a HTTP/1.1\r\nX-A:  b\r\nContent-Length: 3\r\n\r\nabc"


async def connect(up: FakeUpstream) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(up.host, up.port)


async def test_it_records_requests_byte_for_byte_however_they_are_cut() -> None:
    async with FakeUpstream() as up:
        _, writer = await connect(up)
        for n in range(len(REQUEST)):
            writer.write(REQUEST[n : n + 1])
            await writer.drain()
        writer.write(REQUEST * 2)
        requests = [await up.request() for _ in range(3)]
        writer.close()
    assert [request.raw for request in requests] == [REQUEST] * 3
    first = requests[0]
    assert (first.method, first.path, first.body) == (b"POST", b"/a", b"abc")
    assert first.headers == [(b"X-A", b"b"), (b"Content-Length", b"3")]
    assert (first.header("x-a"), first.header("x-b")) == (b"b", None)
    assert bytes(first.connection.received) == REQUEST * 3


async def test_a_script_waits_for_its_events_and_ends_the_connection() -> None:
    go_on = asyncio.Event()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), go_on, LAST_CHUNK, CLOSE]) as up:
        reader, writer = await connect(up)
        writer.write(REQUEST)
        before = STREAM_HEAD + b"3\r\none\r\n"
        assert await reader.readexactly(len(before)) == before
        go_on.set()
        assert await reader.read() == LAST_CHUNK
        writer.close()
        assert up.peer_closed == 0


async def test_reset_breaks_the_connection() -> None:
    async with FakeUpstream([RESET]) as up:
        reader, writer = await connect(up)
        writer.write(REQUEST)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_handler_answers_each_request() -> None:
    async def echo(request: ReceivedRequest) -> None:
        await request.send(answer(request.body, 201, [(b"x-b", b"c")]))

    async with FakeUpstream(echo) as up:
        reader, writer = await connect(up)
        writer.write(REQUEST)
        expected = b"HTTP/1.1 201 Status\r\nx-b: c\r\ncontent-length: 3\r\n\r\nabc"
        assert await reader.readexactly(len(expected)) == expected
        writer.close()


async def test_what_a_handler_raises_is_raised_at_the_end() -> None:
    called = asyncio.Event()

    async def broken(_: ReceivedRequest) -> None:
        called.set()
        raise ZeroDivisionError

    up = FakeUpstream(broken)
    await up.start()
    _, writer = await connect(up)
    writer.write(REQUEST)
    await called.wait()
    with pytest.raises(ZeroDivisionError):
        await up.stop()
    writer.close()


async def test_the_closing_of_connections_can_be_waited_for() -> None:
    async with FakeUpstream() as up:
        writers = [(await connect(up))[1] for _ in range(3)]
        second = await up.connected(2)
        writers[1].close()
        await up.closed()
        assert second.closed.is_set()
        writers[0].close()
        writers[2].transport.abort()
        await up.closed(3)
        assert up.peer_closed == 3
        with pytest.raises(ConnectionResetError):
            await second.send(b"x")


async def test_waiting_in_vain_fails_and_says_for_what() -> None:
    async with FakeUpstream(patience=0.01) as up:
        with pytest.raises(AssertionError, match=r"no .*request came"):
            await up.request()
        with pytest.raises(AssertionError, match="closed fewer than 1"):
            await up.closed()
        with pytest.raises(AssertionError, match="fewer than 2"):
            await up.connected(2)


async def test_it_can_die_and_come_back_on_the_same_port() -> None:
    async with FakeUpstream([answer(b"ok")]) as up:
        reader, writer = await connect(up)
        await up.connected()
        await up.stop()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(up)
        await up.start()
        reader, writer = await connect(up)
        writer.write(REQUEST)
        assert await reader.readexactly(len(answer(b"ok"))) == answer(b"ok")
        writer.close()


async def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    async with FakeUpstream([answer(), CLOSE], unix=tmp_path / "s") as up:
        assert up.url == f"unix:{tmp_path}/s"
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(REQUEST)
        assert await reader.read() == answer()
        writer.close()
