"""What only the native client promises, or what only its insides show."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmgate.core.errors import ConnectionLost, OutOfResources, ProtocolViolation, Truncated
from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    STREAM_HEAD,
    FakeUpstream,
    ReceivedRequest,
    answer,
    chunk,
)
from llmgate.upstream.base import Target, Timeouts
from llmgate.upstream.connection import Connection
from llmgate.upstream.native import NativeClient, request_head
from llmgate.upstream.pool import Pool, PoolStats
from llmgate.upstream.response import MAX_HEAD, NativeResponse

PATIENT = Timeouts(connect=5.0, first_byte=5.0, idle=5.0)


async def send(client: NativeClient, up: FakeUpstream, body: bytes = b"{}") -> NativeResponse:
    return await client.open(Target.parse(up.url), "POST", b"/v1/x", [], body, PATIENT)


async def fetch(client: NativeClient, up: FakeUpstream, body: bytes = b"{}") -> bytes:
    response = await send(client, up, body)
    try:
        parts = []
        while data := await response.read():
            parts.append(data)
        return b"".join(parts)
    finally:
        response.close()


def stats(client: NativeClient) -> PoolStats:
    (only,) = client.stats().values()
    return only


# The request head ------------------------------------------------------------------------------------------------


def test_a_request_head_is_exactly_this() -> None:
    target = Target.parse("http://engine:8000/base")
    assert request_head(target, "POST", b"/v1/x?y=1", [(b"accept", b"*/*"), (b"x-a", b"")], 7) == (
        b"POST /base/v1/x?y=1 HTTP/1.1\r\nHost: engine:8000\r\naccept: */*\r\nx-a: \r\nContent-Length: 7\r\n\r\n"
    )
    assert request_head(target, "GET", b"/", [], 0) == b"GET /base/ HTTP/1.1\r\nHost: engine:8000\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (b"/a b", (b"x", b"y")),
        (b"/a\r\nx: y", (b"x", b"y")),
        (b"/", (b"x", b"y\r\nz: 1")),
        (b"/", (b"x", b"y\nz: 1")),
        (b"/", (b"x", b"y\rz")),
        (b"/", (b"x", b"\0")),
        (b"/", (b"x: 1\r\ny", b"z")),
    ],
)
def test_a_request_head_with_anything_that_would_end_a_line_is_refused(
    path: bytes, header: tuple[bytes, bytes]
) -> None:
    with pytest.raises(ValueError, match="does not belong") as caught:
        request_head(Target.parse("http://engine"), "POST", path, [header], 0)
    assert repr(header[1]) not in str(caught.value)


# Reuse -----------------------------------------------------------------------------------------------------------


async def test_the_connection_used_last_is_reused_first(native: NativeClient) -> None:
    async with FakeUpstream([answer()]) as up:
        first, second = await send(native, up), await send(native, up)
        first.close()
        second.close()
        assert stats(native) == PoolStats(open=2, idle=2)
        await fetch(native, up)
        assert up.requests[-1].connection is up.requests[1].connection
        assert stats(native) == PoolStats(open=2, idle=2)


async def test_a_connection_is_reused_when_its_answer_had_come_whether_or_not_it_was_read(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"unread")]) as up:
        for _ in range(2):
            (await send(native, up)).close()
        assert len(up.connections) == 1


@pytest.mark.parametrize("extra", [b"\0", answer(b"more"), b"HTTP/1.1 20"])
@pytest.mark.parametrize("whole", [answer(b"ok"), STREAM_HEAD + chunk(b"ok") + LAST_CHUNK])
async def test_a_connection_with_bytes_after_the_end_of_an_answer_is_not_reused(
    native: NativeClient, whole: bytes, extra: bytes
) -> None:
    async with FakeUpstream([whole + extra]) as up:
        for _ in range(2):
            assert await fetch(native, up) == b"ok"
        assert len(up.connections) == 2
        assert stats(native).open == 0
        await up.closed(2)


async def test_a_body_sent_in_answer_to_head_is_not_taken_for_anything(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"a body")]) as up:
        response = await native.open(Target.parse(up.url), "HEAD", b"/", [], b"", PATIENT)
        assert await response.read() == b""
        response.close()
        await up.closed()


async def test_a_connection_on_which_something_comes_while_idle_is_dropped_at_once(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"ok")]) as up:
        await fetch(native, up)
        await up.connections[0].send(answer(b"poison"))
        await up.closed()
        assert stats(native) == PoolStats(open=0, idle=0)


async def test_a_connection_idle_for_too_long_is_not_reused() -> None:
    client = NativeClient(idle_keepalive=0.0)
    async with FakeUpstream([answer()]) as up:
        for _ in range(2):
            await fetch(client, up)
        assert len(up.connections) == 2
        await client.aclose()


async def test_connections_idle_for_too_long_are_closed_even_if_nobody_asks() -> None:
    client = NativeClient(idle_keepalive=0.01)
    async with FakeUpstream([answer()]) as up:
        first, second = await send(client, up), await send(client, up)
        first.close()
        second.close()
        await up.closed(2)
        assert stats(client) == PoolStats(open=0, idle=0)
        await client.aclose()


async def test_a_connection_answered_before_it_had_the_whole_request_is_not_reused(native: NativeClient) -> None:
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(native, up, b"x" * 64 * 1024 * 1024))
        connection = await up.connected()
        connection.pause()
        await connection.send(answer(b"too much", 413))
        response = await opening
        assert await response.read() == b"too much"
        assert await response.read() == b""
        assert stats(native) == PoolStats(open=1, idle=0)
        response.close()
        assert stats(native) == PoolStats(open=0, idle=0)


async def test_an_engine_that_ends_while_it_is_being_sent_a_request_is_sent_no_more(native: NativeClient) -> None:
    body = b"x" * 64 * 1024 * 1024
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(native, up, body))
        connection = await up.connected()
        connection.pause()
        connection.half_close()
        with pytest.raises(ConnectionLost):
            await opening
        connection.resume()
        await up.closed()
        assert len(connection.received) < len(body)


async def test_a_reused_connection_that_ends_within_a_head_is_not_tried_again(native: NativeClient) -> None:
    async def behaviour(request: ReceivedRequest) -> None:
        await request.run([answer()] if len(up.requests) == 1 else [b"HTTP/1.1 200", CLOSE])

    async with FakeUpstream(behaviour) as up:
        await fetch(native, up)
        with pytest.raises(ConnectionLost):
            await send(native, up)
        assert len(up.requests) == 2


async def test_targets_do_not_share_connections(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"one")]) as one, FakeUpstream([answer(b"two")]) as two:
        for _ in range(2):
            assert await fetch(native, one) == b"one"
            assert await fetch(native, two) == b"two"
        assert native.stats() == {Target.parse(up.url): PoolStats(open=1, idle=1) for up in (one, two)}


async def test_a_closed_client_opens_nothing() -> None:
    client = NativeClient()
    async with FakeUpstream([answer()]) as up:
        await fetch(client, up)
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await send(client, up)


async def test_a_client_closed_while_connecting_keeps_nothing() -> None:
    client = NativeClient()
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(client, up))
        await asyncio.sleep(0)
        await client.aclose()
        with pytest.raises((RuntimeError, ConnectionLost)):
            await opening
        assert stats(client).open == 0


# Bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interim", "accepted"), [(10, True), (11, False)])
async def test_at_most_ten_interim_answers_are_skipped(native: NativeClient, interim: int, accepted: bool) -> None:
    async with FakeUpstream([b"HTTP/1.1 103 Early Hints\r\n\r\n" * interim + answer(b"ok")]) as up:
        if accepted:
            assert await fetch(native, up) == b"ok"
        else:
            with pytest.raises(ProtocolViolation):
                await send(native, up)


@pytest.mark.parametrize("packets", [1, 2])
@pytest.mark.parametrize("over", [0, 1])
async def test_a_head_may_be_64_kib_and_not_a_byte_more(native: NativeClient, over: int, packets: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nx-a: %b\r\n\r\n"
    raw = head % (b"a" * (MAX_HEAD - len(head) + 2 + over)) + b"x" * 100_000
    go_on = asyncio.Event()
    cut = 1000 if packets == 2 else len(raw)
    async with FakeUpstream([raw[:cut], go_on, raw[cut:]]) as up:
        opening = asyncio.create_task(fetch(native, up))
        await up.request()
        go_on.set()
        if over:
            with pytest.raises(ProtocolViolation):
                await opening
        else:
            assert len(await opening) == 100_000


@pytest.mark.parametrize("framing", [b"0\r\n" + b"x-trailer: y\r\n" * 20_000, b"1;" + b"x" * 300_000])
async def test_endless_trailers_and_chunk_extensions_are_cut(native: NativeClient, framing: bytes) -> None:
    async with FakeUpstream([STREAM_HEAD, framing]) as up:
        with pytest.raises(Truncated):
            await fetch(native, up)
        await up.closed()


async def test_a_chunk_size_beyond_64_bits_is_broken_framing(native: NativeClient) -> None:
    async with FakeUpstream([STREAM_HEAD, b"1" * 17 + b"\r\na\r\n"]) as up:
        with pytest.raises(Truncated):
            await fetch(native, up)


async def test_only_one_reader_may_wait(native: NativeClient) -> None:
    async with FakeUpstream([STREAM_HEAD]) as up:
        response = await send(native, up)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another"):
            await response.read()
        response.close()
        with pytest.raises(Truncated):
            await reading


async def test_everything_that_has_come_is_read_at_once(native: NativeClient) -> None:
    async with FakeUpstream([STREAM_HEAD + chunk(b"one") + chunk(b"two") + chunk(b"three")]) as up:
        response = await send(native, up)
        assert await response.read() == b"onetwothree"
        response.close()


# Cost ------------------------------------------------------------------------------------------------------------


async def test_a_request_leaves_nothing_for_the_garbage_collector(native: NativeClient) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), LAST_CHUNK]) as up:
        gc.collect()
        gc.disable()
        try:
            before = sum(isinstance(each, NativeResponse) for each in gc.get_objects())
            for _ in range(3):
                await fetch(native, up)
            assert sum(isinstance(each, NativeResponse) for each in gc.get_objects()) == before
        finally:
            gc.enable()


class ManualTimer:
    def cancel(self) -> None: ...


class ManualLoop:
    """Enough of an event loop for a connection, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def call_at(self, when: float, callback: Callable[[], None]) -> ManualTimer:
        self.timers.append((when, callback))
        return ManualTimer()

    def fire(self) -> None:
        """Move to the last timer that was set and run it."""
        self.now, callback = self.timers[-1]
        callback()


class ManualTransport:
    def __init__(self) -> None:
        self.aborted = False

    def writelines(self, _: object) -> None: ...

    def pause_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def manual() -> tuple[ManualLoop, ManualTransport, Connection]:
    loop: Any = ManualLoop()
    transport: Any = ManualTransport()
    connection = Connection(loop, Pool(loop, 1e9))
    connection.connection_made(transport)
    return loop, transport, connection


async def test_a_stream_sets_one_timer_and_not_one_for_each_chunk(
    manual: tuple[ManualLoop, ManualTransport, Connection],
) -> None:
    loop, _, connection = manual
    response = connection.send(b"", b"", 300.0, False)
    waiting = response.head(300.0)
    connection.data_received(STREAM_HEAD)
    await waiting
    for n in range(1000):
        loop.now = n / 10
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        connection.data_received(chunk(b"x"))
        await reading
    assert [when for when, _ in loop.timers] == [300.0]
    response.close()


async def test_the_timer_fires_a_full_timeout_after_the_last_byte_was_awaited(
    manual: tuple[ManualLoop, ManualTransport, Connection],
) -> None:
    loop, transport, connection = manual
    response = connection.send(b"", b"", 300.0, False)
    response.head(300.0)
    connection.data_received(STREAM_HEAD)
    loop.now = 299.0
    reading = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    loop.fire()
    assert (loop.now, transport.aborted) == (300.0, False)
    loop.fire()
    assert (loop.now, transport.aborted) == (599.0, True)
    with pytest.raises(Exception, match="no byte"):
        await reading
    response.close()


async def test_time_does_not_count_against_an_engine_while_nobody_reads(
    manual: tuple[ManualLoop, ManualTransport, Connection],
) -> None:
    loop, transport, connection = manual
    response = connection.send(b"", b"", 300.0, False)
    response.head(300.0)
    connection.data_received(STREAM_HEAD)
    loop.fire()
    loop.now = 10_000.0
    assert not transport.aborted
    reading = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    connection.data_received(chunk(b"x"))
    assert await reading == b"x"
    response.close()


async def test_a_connection_that_is_held_back_is_not_reused(
    manual: tuple[ManualLoop, ManualTransport, Connection],
) -> None:
    _, transport, connection = manual
    response = connection.send(b"", b"", 300.0, False)
    response.head(300.0)
    connection.data_received(STREAM_HEAD + chunk(b"x" * 100_000))
    connection.data_received(LAST_CHUNK)  # a transport over TLS may still have had this
    response.close()
    assert transport.aborted


IDLE = 0.1


async def test_a_stream_outlives_a_stop_that_is_longer_than_its_idle_timeout(native: NativeClient) -> None:
    """Both loops look at sockets before they look at timers, so what has come meanwhile counts."""
    stopped, sent = threading.Event(), threading.Event()

    def engine(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            connection.recv(65536)
            connection.sendall(STREAM_HEAD + chunk(b"before"))
            stopped.wait(5)
            connection.sendall(chunk(b"meanwhile"))
            threading.Event().wait(3 * IDLE)  # a stop takes real time
            sent.set()
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=engine, args=(listener,), daemon=True)
        thread.start()
        target = Target.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
        response = await native.open(target, "GET", b"/", (), b"", Timeouts(idle=IDLE))
        assert await response.read() == b"before"
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        stopped.set()
        sent.wait(5)  # the whole process stands still
        assert await reading == b"meanwhile"
        response.close()
        await asyncio.to_thread(thread.join)


async def test_being_out_of_file_descriptors_is_not_the_engines_fault() -> None:
    client = NativeClient()
    async with FakeUpstream([answer(b"hello")]) as up:
        assert await fetch(client, up) == b"hello"  # whatever the loop opens once is open now
        await client.aclose()
        client = NativeClient()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open(os.devnull, os.O_RDONLY)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            held = []
            while True:  # fill the gaps below
                try:
                    held.append(os.dup(spare))
                except OSError:
                    break
            with pytest.raises(OutOfResources, match="Too many open files"):
                await fetch(client, up)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in (spare, *held):
                os.close(number)
        assert await fetch(client, up) == b"hello"
    await client.aclose()


async def test_connections_of_a_retired_target_close_when_idle_and_are_not_used_again(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"hello")]) as up:
        assert await fetch(native, up) == b"hello"
        native.retire(Target.parse(up.url))
        await up.closed()
        assert native.stats() == {}
        assert await fetch(native, up) == b"hello"  # it may be used again
        assert len(up.connections) == 2


async def test_cutting_a_target_cuts_what_is_in_flight_since_before_it_was_retired(native: NativeClient) -> None:
    async with FakeUpstream([STREAM_HEAD]) as up:
        target = Target.parse(up.url)
        response = await native.open(target, "GET", b"/", (), b"", Timeouts())
        native.retire(target)
        native.cut(target)
        with pytest.raises(Truncated):
            await response.read()
        response.close()


async def test_a_retired_target_leaves_nothing_behind_once_it_is_done(native: NativeClient) -> None:
    async with FakeUpstream([answer(b"hello")]) as up:
        for _ in range(3):
            assert await fetch(native, up) == b"hello"
            native.retire(Target.parse(up.url))
        await up.closed(3)
        gc.collect()
        assert len(native._retired) == 0
