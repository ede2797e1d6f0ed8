"""The contract of UpstreamClient, kept by both clients on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmgate.core.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolViolation,
    Truncated,
)
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
from llmgate.upstream.base import Headers, Target, Timeouts, UpstreamClient, UpstreamResponse

if TYPE_CHECKING:
    from tests.upstream.conftest import Tls

PATIENT = Timeouts(connect=5.0, first_byte=5.0, idle=5.0)


async def send(
    client: UpstreamClient,
    target: Target | str,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    path: bytes = b"/v1/x",
    headers: Headers = (),
    timeouts: Timeouts = PATIENT,
) -> UpstreamResponse:
    if isinstance(target, str):
        target = Target.parse(target)
    return await client.open(target, method, path, headers, body, timeouts)


async def read_all(response: UpstreamResponse) -> bytes:
    parts = []
    while data := await response.read():
        parts.append(data)
    return b"".join(parts)


async def fetch(client: UpstreamClient, target: Target | str, body: bytes = b"{}") -> bytes:
    response = await send(client, target, body)
    try:
        return await read_all(response)
    finally:
        response.close()


# What the engine receives ----------------------------------------------------------------------------------------


async def test_the_engine_receives_the_given_headers_its_host_the_length_and_nothing_else(
    client: UpstreamClient,
) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"accept", b"text/event-stream"), (b"x-twice", b"1, 2")]
    async with FakeUpstream([answer()]) as up:
        response = await send(client, up.url, b'{"model": "m"}', headers=headers)
        response.close()
        request = await up.request()
    assert request.method == b"POST"
    assert request.body == b'{"model": "m"}'
    received = {name.lower(): value for name, value in request.headers}
    assert received == {
        b"host": f"127.0.0.1:{up.port}".encode(),
        b"content-length": b"14",
        **{name.lower(): value for name, value in headers},
    }
    assert len(request.headers) == len(received)


async def test_a_path_goes_out_as_it_is_behind_the_targets_prefix(client: UpstreamClient) -> None:
    async with FakeUpstream([answer()]) as up:
        response = await send(client, up.url + "/engine/1/", path=b"/v1/a%2Fb/../c?q=%20|&r=[]")
        response.close()
        assert (await up.request()).path == b"/engine/1/v1/a%2Fb/../c?q=%20|&r=[]"


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 3 * 1024 * 1024])
async def test_a_body_of_any_size_arrives_unchanged(client: UpstreamClient, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with FakeUpstream([answer(b"ok")]) as up:
        assert await fetch(client, up.url, body) == b"ok"
        request = await up.request()
        assert request.header("content-length") == str(size).encode()
        assert request.body == body


async def test_get_has_neither_body_nor_length(client: UpstreamClient) -> None:
    async with FakeUpstream([answer(b"ok")]) as up:
        response = await send(client, up.url, b"", method="GET")
        assert await read_all(response) == b"ok"
        response.close()
        request = await up.request()
        assert (request.method, request.header("content-length")) == (b"GET", None)


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_value_that_would_end_its_line_is_refused(client: UpstreamClient, value: bytes) -> None:
    async with FakeUpstream([answer()]) as up:
        with pytest.raises(ValueError, match="not"):
            await send(client, up.url, headers=[(b"x-a", value)])
        assert up.requests == []


# What the caller gets --------------------------------------------------------------------------------------------


async def test_status_and_headers_come_in_order_with_names_in_lower_case(client: UpstreamClient) -> None:
    raw = b"HTTP/1.1 418 I'm a teapot\r\nX-B: One\r\nx-a:two \r\nX-B: three\r\nContent-Length: 0\r\n\r\n"
    async with FakeUpstream([raw]) as up:
        response = await send(client, up.url)
        assert response.status == 418
        assert response.headers == [
            (b"x-b", b"One"),
            (b"x-a", b"two"),
            (b"x-b", b"three"),
            (b"content-length", b"0"),
        ]
        assert await response.read() == b""
        response.close()


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
async def test_no_status_is_followed_or_raised(client: UpstreamClient, status: int) -> None:
    async with FakeUpstream([answer(b"why", status, [(b"location", b"/elsewhere"), (b"set-cookie", b"a=b")])]) as up:
        for _ in range(2):
            response = await send(client, up.url)
            assert (response.status, await read_all(response)) == (status, b"why")
            response.close()
        assert [request.header("cookie") for request in up.requests] == [None, None]


async def test_chunks_come_one_by_one_as_the_engine_sends_them(client: UpstreamClient) -> None:
    events = [f"data: {n}\n\n".encode() for n in range(5)]
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(client, up.url))
        request = await up.request()
        await request.send(STREAM_HEAD)
        response = await opening
        for event in events:
            await request.send(chunk(event))
            assert await response.read() == event
        await request.send(LAST_CHUNK)
        assert await response.read() == b""
        assert await response.read() == b""
        response.close()


async def test_a_compressed_body_is_passed_as_it_came(client: UpstreamClient) -> None:
    body = b"\x1f\x8b\x08not really gzip"
    async with FakeUpstream([answer(body, headers=[(b"content-encoding", b"gzip")])]) as up:
        assert await fetch(client, up.url) == body


BODY = b"data: one\n\ndata: two\n\n"
FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "chunked": STREAM_HEAD + chunk(BODY[:11]) + chunk(BODY[11:]) + LAST_CHUNK,
    "chunked, oddly": b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING:\t Chunked \r\n\r\n" + chunk(BODY) + LAST_CHUNK,
    "chunk extensions": STREAM_HEAD + b"b;x=y\r\n" + BODY[:11] + b"\r\nB\r\n" + BODY[11:] + b"\r\n0;z\r\n\r\n",
    "trailers": STREAM_HEAD + chunk(BODY) + b"0\r\nX-Trailer: 1\r\nAuthorization: x\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "HTTP/1.0 length": b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(BODY),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_body_is_unframed_whatever_its_framing(client: UpstreamClient, framing: str) -> None:
    async with FakeUpstream([FRAMINGS[framing], CLOSE]) as up:
        response = await send(client, up.url)
        assert (response.status, await read_all(response)) == (200, BODY)
        assert {b"x-trailer", b"authorization", b"link"}.isdisjoint(dict(response.headers))
        response.close()


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_it_does_not_matter_how_the_bytes_are_cut_into_packets(client: UpstreamClient, framing: str) -> None:
    raw = FRAMINGS[framing]
    async with FakeUpstream([*(raw[n : n + 1] for n in range(len(raw))), CLOSE]) as up:
        assert await fetch(client, up.url) == BODY


@pytest.mark.parametrize("status", [204, 304])
async def test_204_and_304_have_no_body_whatever_their_length_says(client: UpstreamClient, status: int) -> None:
    raw = b"HTTP/1.1 %d Nothing\r\nContent-Length: 10\r\n\r\n" % status
    async with FakeUpstream([raw]) as up:
        for _ in range(2):
            assert await fetch(client, up.url) == b""
        assert len(up.connections) == 1


async def test_an_answer_to_head_has_no_body(client: UpstreamClient) -> None:
    async with FakeUpstream([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"]) as up:
        response = await send(client, up.url, b"", method="HEAD")
        assert dict(response.headers)[b"content-length"] == b"10"
        assert await response.read() == b""
        response.close()


# Errors ----------------------------------------------------------------------------------------------------------


async def test_a_refused_connection_names_the_address_and_the_reason(client: UpstreamClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening, and nobody else can
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectFailed, match=address) as caught:
            await send(client, f"http://{address}", headers=[(b"authorization", b"Bearer sk-secret")])
    assert caught.value.never_sent
    assert "secret" not in str(caught.value)


async def test_a_host_that_does_not_resolve_is_a_failed_connection(client: UpstreamClient) -> None:
    with pytest.raises(ConnectFailed, match=r"engine\.invalid:8000"):
        await send(client, "http://engine.invalid:8000")


async def test_a_missing_unix_socket_is_a_failed_connection(client: UpstreamClient, tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="none"):
        await send(client, f"unix:{tmp_path}/none.sock")


async def test_a_connection_that_is_not_accepted_times_out(client: UpstreamClient) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # fills the queue of connections to be accepted: further ones get no answer
            peer = waiting.enter_context(socket.socket())
            peer.setblocking(False)
            peer.connect_ex(full.getsockname())
        with pytest.raises(ConnectTimeout, match=r"0\.05 s"):
            await send(client, f"http://127.0.0.1:{full.getsockname()[1]}", timeouts=Timeouts(connect=0.05))


async def test_a_tls_handshake_that_hangs_times_out(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream() as up:
        target = Target.parse(up.url.replace("http:", "https:"), tls.trusting)
        with pytest.raises(ConnectTimeout):
            await send(client, target, timeouts=Timeouts(connect=0.05))
        await up.closed()


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_fresh_connection_that_ends_before_the_answer_is_lost_and_not_tried_again(
    client: UpstreamClient, end: object
) -> None:
    async with FakeUpstream([end]) as up:  # type: ignore[list-item]
        with pytest.raises(ConnectionLost):
            await send(client, up.url)
        assert len(up.requests) == 1


async def test_an_answer_that_does_not_begin_in_time_is_a_timeout(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:
        with pytest.raises(FirstByteTimeout):
            await send(client, up.url, timeouts=Timeouts(first_byte=0.05))
        await up.closed()


async def test_a_head_drawn_out_byte_by_byte_is_a_timeout(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:

        async def trickle(request: ReceivedRequest) -> None:
            await request.send(b"HTTP/1.1 200 OK\r\nx-slow: ")
            while True:
                await request.send(b"x")
                await asyncio.sleep(0.01)  # the engine's pace, not the test's

        opening = asyncio.create_task(send(client, up.url, timeouts=Timeouts(first_byte=0.1)))
        slow = asyncio.create_task(trickle(await up.request()))
        with pytest.raises(FirstByteTimeout):
            await opening
        await up.closed()
        slow.cancel()


async def test_a_pause_within_a_body_is_a_timeout_that_closes_the_connection(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"one")]) as up:
        response = await send(client, up.url, timeouts=Timeouts(idle=0.05))
        assert await response.read() == b"one"
        with pytest.raises(IdleTimeout):
            await response.read()
        response.close()
        await up.closed()


async def test_the_idle_timeout_is_about_pauses_not_about_the_whole(client: UpstreamClient) -> None:
    async def behaviour(request: ReceivedRequest) -> None:
        await request.send(STREAM_HEAD)
        for _ in range(4):
            await asyncio.sleep(0.2)  # the engine's pace, not the test's
            await request.send(chunk(b"."))
        await request.send(LAST_CHUNK)

    async with FakeUpstream(behaviour) as up:
        response = await send(client, up.url, timeouts=Timeouts(first_byte=0.6, idle=0.6))
        assert await read_all(response) == b"...."
        response.close()


NOT_HTTP = {
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "control character": b"HTTP/1.1 200 OK\r\nx-a: a\0b\r\nContent-Length: 0\r\n\r\n",
    "switched protocols": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000,
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"x-a: a\r\n" * 30_000,
}


@pytest.mark.parametrize("what", NOT_HTTP)
async def test_an_invalid_head_is_a_protocol_violation_that_closes_the_connection(
    client: UpstreamClient, what: str, request: pytest.FixtureRequest
) -> None:
    if what == "both framings" and not type(client).__name__.startswith("Native"):
        pytest.skip("h11 ignores the length, as RFC 9112 allows")
    async with FakeUpstream([NOT_HTTP[what]]) as up:
        with pytest.raises(ProtocolViolation):
            await send(client, up.url)
        await up.closed()


@pytest.mark.parametrize(
    "broken",
    [b"zz\r\nabc\r\n", b"3\r\nabcd\r\n", b"-1\r\na\r\n", b"0x3\r\nabc\r\n"],
)
async def test_broken_chunks_are_truncation_that_closes_the_connection(client: UpstreamClient, broken: bytes) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"good"), broken]) as up:
        response = await send(client, up.url)
        with pytest.raises(Truncated):
            await read_all(response)
        with pytest.raises(Truncated):
            await response.read()
        response.close()
        await up.closed()


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_body_cut_at_any_byte_is_truncated_and_what_came_before_is_given(
    client: UpstreamClient, end: object
) -> None:
    raw = chunk(b"ab") + chunk(b"cde") + LAST_CHUNK
    for cut in range(len(raw)):
        given = asyncio.Event()
        async with FakeUpstream([STREAM_HEAD, raw[:cut], given, end]) as up:  # type: ignore[list-item]
            response = await send(client, up.url)
            expected = b"abcde"[: max(0, min(cut - 3, 2)) + max(0, min(cut - 10, 3))]
            received = b""
            while len(received) < len(expected):
                received += await response.read()
            given.set()
            with pytest.raises(Truncated):
                received += await response.read()
            assert received == expected
            response.close()


async def test_a_body_shorter_than_its_length_is_truncated(client: UpstreamClient) -> None:
    async with FakeUpstream([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", CLOSE]) as up:
        response = await send(client, up.url)
        assert await response.read() == b"abc"
        with pytest.raises(Truncated):
            await response.read()
        response.close()


async def test_a_body_until_close_that_is_reset_is_truncated(client: UpstreamClient) -> None:
    given = asyncio.Event()
    async with FakeUpstream([b"HTTP/1.1 200 OK\r\n\r\nabc", given, RESET]) as up:
        response = await send(client, up.url)
        assert await response.read() == b"abc"
        given.set()
        with pytest.raises(Truncated):
            await response.read()
        response.close()


# Keep-alive ------------------------------------------------------------------------------------------------------


async def test_a_connection_is_reused_after_a_whole_answer(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"hi"), LAST_CHUNK]) as up:
        for _ in range(5):
            assert await fetch(client, up.url) == b"hi"
        assert len(up.connections) == 1


async def test_requests_at_the_same_time_have_connections_of_their_own(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:
        opening = [asyncio.create_task(send(client, up.url, b"%d" % n)) for n in range(20)]
        requests = [await up.request() for _ in opening]
        assert len(up.connections) == 20
        for request in reversed(requests):
            await request.send(answer(b"for " + request.body))
        for n, task in enumerate(opening):
            response = await task
            assert await read_all(response) == b"for %d" % n
            response.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_the_engine_will_close_is_not_reused(client: UpstreamClient, raw: bytes) -> None:
    async with FakeUpstream([raw]) as up:
        for _ in range(2):
            assert await fetch(client, up.url) == b"ok"
        assert len(up.connections) == 2
        await up.closed(2)


async def test_a_connection_that_ended_while_idle_is_not_reused(client: UpstreamClient) -> None:
    async with FakeUpstream([answer(b"ok"), CLOSE]) as up:
        for n in range(3):
            assert await fetch(client, up.url) == b"ok"
            assert len(up.connections) == n + 1
        assert len(up.requests) == 3


async def test_a_connection_on_which_something_came_while_idle_is_not_reused(client: UpstreamClient) -> None:
    async with FakeUpstream([answer(b"ok")]) as up:
        assert await fetch(client, up.url) == b"ok"
        await up.connections[0].send(answer(b"poison"))
        for _ in range(5):  # turns of the loop, in which the client may see it
            await asyncio.sleep(0)
        assert await fetch(client, up.url) == b"ok"
        assert len(up.connections) == 2


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_reused_connection_that_ends_before_the_answer_is_replaced_by_a_fresh_one(
    client: UpstreamClient, end: object
) -> None:
    async def behaviour(request: ReceivedRequest) -> None:
        # the first request on a connection is answered, a second one meets its end
        first = len(request.connection.requests) == 1
        await request.run([answer(b"ok " + request.body)] if first else [end])  # type: ignore[list-item]

    async with FakeUpstream(behaviour) as up:
        # two idle connections: the retry must not take the other one, which would end as well
        pair = await asyncio.gather(send(client, up.url, b"1"), send(client, up.url, b"2"))
        for response in pair:
            await read_all(response)
            response.close()
        assert await fetch(client, up.url, b"3") == b"ok 3"
        assert len(up.connections) == 3
        assert [request.body for request in up.requests].count(b"3") == 2


async def test_a_fresh_connection_that_fails_too_is_an_error_and_not_tried_again(client: UpstreamClient) -> None:
    async def behaviour(request: ReceivedRequest) -> None:
        await request.run([answer(b"ok")] if len(up.requests) == 1 else [CLOSE])

    async with FakeUpstream(behaviour) as up:
        await fetch(client, up.url)
        with pytest.raises(ConnectionLost):
            await send(client, up.url)
        assert len(up.requests) == 3


async def test_a_timeout_on_a_reused_connection_is_not_tried_again(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:
        opening = asyncio.create_task(fetch(client, up.url))
        await (await up.request()).send(answer())
        await opening
        with pytest.raises(FirstByteTimeout):
            await send(client, up.url, timeouts=Timeouts(first_byte=0.05))
        assert len(up.requests) == 2


# Closing and cancelling ------------------------------------------------------------------------------------------


async def test_closing_in_the_middle_of_a_body_closes_the_connection(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"one")]) as up:
        response = await send(client, up.url)
        assert await response.read() == b"one"
        assert up.peer_closed == 0
        response.close()
        response.close()
        await up.closed()


async def test_closing_with_unread_data_closes_the_connection(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD, *[chunk(b"x" * 65536)] * 200]) as up:
        response = await send(client, up.url)
        response.close()
        await up.closed()


async def test_closing_wakes_a_reader(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD]) as up:
        response = await send(client, up.url)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(Truncated):
            await reading
        await up.closed()
        with pytest.raises(Truncated):
            await response.read()


async def test_cancelling_while_connecting_drops_the_connection(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream() as up:
        target = Target.parse(up.url.replace("http:", "https:"), tls.trusting)
        opening = asyncio.create_task(send(client, target))  # stays in the handshake
        await up.connected()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await up.closed()


async def test_cancelling_before_the_first_byte_closes_the_connection(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(client, up.url))
        await up.request()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await up.closed()


async def test_cancelling_at_any_turn_of_the_loop_leaves_no_connection_open(client: UpstreamClient) -> None:
    async with FakeUpstream([STREAM_HEAD, chunk(b"one")]) as up:
        for turns in range(12):
            opening = asyncio.create_task(send(client, up.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await opening).close()
            # a connection may have been made and dropped before the engine's side noticed: it is accepted all the same
            response = await send(client, up.url)
            response.close()
        await up.closed(len(up.connections))


async def test_cancelling_a_read_loses_no_byte(client: UpstreamClient) -> None:
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(client, up.url))
        request = await up.request()
        await request.send(STREAM_HEAD)
        response = await opening
        for n in range(5):
            reading = asyncio.create_task(response.read())
            for _ in range(n):
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await request.send(chunk(b"%d" % n))
            assert await response.read() == b"%d" % n
        await request.send(LAST_CHUNK)
        assert await response.read() == b""
        response.close()


async def test_cancelling_while_the_request_is_being_sent_sends_no_more_of_it(client: UpstreamClient) -> None:
    body = b"x" * 64 * 1024 * 1024
    async with FakeUpstream() as up:
        opening = asyncio.create_task(send(client, up.url, body))
        connection = await up.connected()
        connection.pause()
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        connection.resume()
        await up.closed()
        assert len(connection.received) < len(body)


@pytest.mark.parametrize("begun", [STREAM_HEAD + chunk(b"one"), b"HTTP/1.1 200 OK\r\n\r\none"])
async def test_aclose_closes_idle_connections_and_those_in_use(client: UpstreamClient, begun: bytes) -> None:
    async with FakeUpstream([begun]) as up, FakeUpstream([answer()]) as other:
        response = await send(client, up.url)
        await fetch(client, other.url)
        assert await response.read() == b"one"
        await client.aclose()
        await up.closed()
        await other.closed()
        with pytest.raises(Truncated):
            await response.read()
        response.close()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_an_engine_is_held_back_while_nobody_reads(client: UpstreamClient, tls: Tls, secure: bool) -> None:
    piece, pieces = b"x" * 256 * 1024, 200  # together well above what the kernel takes for both sides
    sent = 0
    async with FakeUpstream(tls=tls.server if secure else None) as up:

        async def pour(request: ReceivedRequest) -> None:
            nonlocal sent
            await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * pieces))
            while sent < pieces:
                await request.send(piece)
                sent += 1

        opening = asyncio.create_task(send(client, Target.parse(up.url, tls.trusting)))
        pouring = asyncio.create_task(pour(await up.request()))
        response = await opening
        before, still = 0, 0
        while still < 100:  # turns of the loop in which nothing moved
            await asyncio.sleep(0)
            still = still + 1 if before == sent else 0
            before = sent
        assert sent < pieces // 2
        assert len(await read_all(response)) == len(piece) * pieces
        await pouring
        response.close()


# Kinds of socket -------------------------------------------------------------------------------------------------


async def test_ipv6(client: UpstreamClient) -> None:
    async with FakeUpstream([answer(b"ok")], host="::1") as up:
        assert await fetch(client, up.url) == b"ok"
        assert (await up.request()).header("host") == f"[::1]:{up.port}".encode()


async def test_unix_sockets(client: UpstreamClient, tmp_path: Path) -> None:
    async with FakeUpstream([answer(b"ok")], unix=tmp_path / "engine.sock") as up:
        for _ in range(2):
            assert await fetch(client, up.url) == b"ok"
        assert (await up.request()).header("host") == b"localhost"
        assert len(up.connections) == 1


async def test_tls(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream([answer(b"ok")], host="localhost", tls=tls.server) as up:
        target = Target.parse(up.url, tls.trusting)
        for _ in range(2):
            assert await fetch(client, target, b"x" * 300_000) == b"ok"
        assert len(up.connections) == 1


async def test_tls_names_the_host_that_it_wants(client: UpstreamClient, tls: Tls) -> None:
    names = []
    tls.server.sni_callback = lambda _, name, __: names.append(name)
    try:
        async with FakeUpstream([answer(b"ok")], host="localhost", tls=tls.server) as up:
            await fetch(client, Target.parse(up.url, tls.trusting))
    finally:
        tls.server.sni_callback = None
    assert names == ["localhost"]


async def test_tls_can_want_another_name_than_the_hosts(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream([answer(b"ok")], host="127.0.0.2", tls=tls.server) as up:
        assert await fetch(client, Target.parse(up.url, tls.trusting, "localhost")) == b"ok"
        assert (await up.request()).header("host") == up.url.removeprefix("https://").encode()
        with pytest.raises(ConnectFailed, match="certificate"):
            await fetch(client, Target.parse(up.url, tls.trusting, "other.example"))


async def test_what_is_in_flight_on_a_retired_target_goes_on(client: UpstreamClient, tls: Tls) -> None:
    go_on = asyncio.Event()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), go_on, chunk(b"two"), LAST_CHUNK], tls=tls.server) as up:
        before, after = Target.parse(up.url, tls.trusting), Target.parse(up.url, tls.trusting, "localhost")
        begun = await send(client, before)
        assert await begun.read() == b"one"
        client.retire(before)
        other = await send(client, after)
        go_on.set()
        assert await read_all(begun) == b"two"
        assert await read_all(other) == b"onetwo"
        begun.close()
        other.close()


async def test_closing_over_tls_is_seen_at_once_even_with_unread_data(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream([STREAM_HEAD, *[chunk(b"x" * 65536)] * 200], tls=tls.server) as up:
        response = await send(client, Target.parse(up.url, tls.trusting))
        assert await response.read()
        response.close()
        await up.closed()


async def test_a_certificate_of_an_unknown_authority_is_a_failed_connection(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream([answer(b"ok")], tls=tls.server) as up:
        with pytest.raises(ConnectFailed, match="certificate"):
            await send(client, Target.parse(up.url, tls.wary))
        assert up.requests == []


async def test_a_certificate_for_another_host_is_a_failed_connection(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream([answer(b"ok")], host="127.0.0.2", tls=tls.server) as up:
        with pytest.raises(ConnectFailed, match="certificate"):
            await send(client, Target.parse(up.url, tls.trusting))


async def test_an_engine_without_tls_is_a_failed_connection_for_https(client: UpstreamClient, tls: Tls) -> None:
    async with FakeUpstream() as up:

        async def answer_in_plain_text() -> None:
            await (await up.connected()).send(answer(b"this is not TLS", 400))

        talking = asyncio.create_task(answer_in_plain_text())
        with pytest.raises(ConnectFailed):
            await send(client, Target.parse(up.url.replace("http:", "https:"), tls.trusting))
        await talking


async def test_cutting_a_target_ends_what_is_in_flight_there_and_closes_what_is_idle(client: UpstreamClient) -> None:
    async def script(request: ReceivedRequest) -> None:
        await request.send(answer(b"whole") if request.path == b"/idle" else STREAM_HEAD + chunk(b"begun"))

    async with FakeUpstream(script) as cut, FakeUpstream(script) as other:
        for engine in (cut, other):
            idle = await send(client, engine.url, path=b"/idle")
            await read_all(idle)
            idle.close()
        begun, untouched = await send(client, cut.url), await send(client, other.url)
        for response in (begun, untouched):
            assert await response.read() == b"begun"
        client.cut(Target.parse(cut.url))
        with pytest.raises(Truncated):
            await begun.read()
        async with asyncio.timeout(5):
            for request in cut.requests:
                await request.connection.closed.wait()
        assert not any(request.connection.closed.is_set() for request in other.requests)
        again = await send(client, cut.url, path=b"/idle")  # it may be used again
        assert await read_all(again) == b"whole"
        for response in (begun, untouched, again):
            response.close()
