"""What strangers may send: heads, framing and deadlines, on a transport that records what the gateway writes."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import pytest
from hypothesis import example, given, settings

from llmgate.gateway.guarded import MOST_HEAD, MOST_HEADERS, MOST_URL, SLOWEST_BODY
from tests.gateway.test_protocol import Connection, ok, statuses
from tests.support.requests import Read, by_gateway, conversations

HEAD = b"POST /direct HTTP/1.1\r\nhost: g\r\n"
EMPTY = b"content-length: 0\r\n\r\n"


def head(*lines: bytes, target: bytes = b"/direct", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"POST " + target + b" " + version, *lines, b"", b""])


REFUSED = {
    "length and coding": (400, head(b"host: g", b"content-length: 5", b"transfer-encoding: chunked") + b"0\r\n\r\n"),
    "coding and length": (400, head(b"host: g", b"transfer-encoding: chunked", b"content-length: 5") + b"0\r\n\r\n"),
    "two lengths": (400, head(b"host: g", b"content-length: 5", b"content-length: 6") + b"hello!"),
    "the same length twice": (400, head(b"host: g", b"content-length: 5", b"content-length: 5") + b"hello"),
    "a list of lengths": (400, head(b"host: g", b"content-length: 5, 5") + b"hello"),
    "length +5": (400, head(b"host: g", b"content-length: +5") + b"hello"),
    "length 5_0": (400, head(b"host: g", b"content-length: 5_0") + b"hello"),
    "length 0x5": (400, head(b"host: g", b"content-length: 0x5") + b"hello"),
    "length 5 5": (400, head(b"host: g", b"content-length: 5 5") + b"hello"),
    "empty length": (400, head(b"host: g", b"content-length:") + b"hello"),
    "length of 2^64": (400, head(b"host: g", b"content-length: 18446744073709551616") + b"hello"),
    "another coding": (400, head(b"host: g", b"transfer-encoding: xchunked") + b"0\r\n\r\n"),
    "gzip, chunked": (400, head(b"host: g", b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n"),
    "chunked, identity": (400, head(b"host: g", b"transfer-encoding: chunked, identity") + b"0\r\n\r\n"),
    "identity": (400, head(b"host: g", b"transfer-encoding: identity", b"content-length: 0")),
    "chunked twice": (400, head(b"host: g", b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n"),
    "two codings": (400, head(b"host: g", b"transfer-encoding: gzip", b"transfer-encoding: chunked") + b"0\r\n\r\n"),
    "coding twice": (
        400,
        head(b"host: g", b"transfer-encoding: chunked", b"transfer-encoding: chunked") + b"0\r\n\r\n",
    ),
    "vertical tab before the coding": (400, head(b"host: g", b"transfer-encoding: \vchunked") + b"0\r\n\r\n"),
    "trailing comma": (400, head(b"host: g", b"transfer-encoding: chunked,") + b"0\r\n\r\n"),
    "folded coding": (400, head(b"host: g", b"transfer-encoding:\r\n chunked") + b"0\r\n\r\n"),
    "coding in HTTP/1.0": (
        400,
        head(b"host: g", b"transfer-encoding: chunked", version=b"HTTP/1.0") + b"0\r\n\r\n",
    ),
    "bare LF": (400, b"POST /direct HTTP/1.1\nhost: g\ncontent-length: 0\n\n"),
    "bare CR": (400, b"POST /direct HTTP/1.1\rhost: g\rcontent-length: 0\r\r"),
    "folded header": (400, head(b"host: g", b"x-a: b", b" c", b"content-length: 0")),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (400, head(b"host: g", b"content-length: 0", version=b"HTTP/1.2")),
    "CONNECT": (400, b"CONNECT /direct HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "no Host": (400, head(b"content-length: 0")),
    "two Hosts": (400, head(b"host: g", b"host: g", b"content-length: 0")),
    "a Host with a path": (400, head(b"host: g/admin", b"content-length: 0", target=b"/plain")),
    "a Host with credentials": (400, head(b"host: a@g", b"content-length: 0", target=b"/plain")),
    "absolute target of another host": (400, head(b"host: g", b"content-length: 0", target=b"http://other/plain")),
    "target without a slash": (400, head(b"host: g", b"content-length: 0", target=b"direct")),
    "long URL": (414, head(b"host: g", b"content-length: 0", target=b"/" + b"a" * MOST_URL)),
    "many headers": (431, head(b"host: g", *[b"x-a: b"] * MOST_HEADERS, b"content-length: 0")),
    "a long header": (431, head(b"host: g", b"x-a: " + b"b" * MOST_HEAD, b"content-length: 0")),
}


@pytest.mark.parametrize(("status", "sent"), REFUSED.values(), ids=list(REFUSED))
async def test_what_two_readers_could_understand_in_two_ways_reaches_nobody(status: int, sent: bytes) -> None:
    connection = Connection(ok)
    await connection.sends(sent + head(b"host: g", b"content-length: 0"))
    assert statuses(connection.received) == [status]
    assert b"\r\nconnection: close\r\n" in connection.received
    assert b'"error"' in connection.received
    assert connection.app.served == []
    connection.end()


@pytest.mark.parametrize(
    "sent",
    [
        head(b"host: g", b"transfer-encoding: Chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        head(b"host: [::1]:8080", b"content-length: 2") + b"{}",
        head(b"host:", b"content-length: 2") + b"{}",
        head(b"host: G:80", b"content-length: 2", target=b"http://g:80/plain") + b"{}",
        head(b"content-length: 2", version=b"HTTP/1.0") + b"{}",
    ],
)
async def test_what_can_be_understood_in_one_way_only_is_served(sent: bytes) -> None:
    connection = Connection(ok)
    await connection.sends(sent)
    assert statuses(connection.received) == [200]
    assert connection.app.served == [b"{}"]
    connection.end()


@pytest.mark.parametrize(("start", "status"), [(b"POST /", 414), (HEAD + b"x-a: ", 431)])
async def test_a_head_without_end_is_not_read_on(start: bytes, status: int) -> None:
    connection = Connection(ok)
    await connection.sends(start)
    for _ in range(2 + (MOST_URL + MOST_HEAD) // 1000):
        await connection.sends(b"a" * 1000)
    assert statuses(connection.received) == [status]
    written = len(connection.transport.writes)
    await connection.sends(b"\r\n" + EMPTY)
    assert len(connection.transport.writes) == written
    connection.end()


async def test_a_bad_request_behind_a_good_one_takes_nothing_from_its_answer() -> None:
    connection = Connection(ok)
    await connection.sends(head(b"host: g", b"content-length: 2") + b"{}" + head(b"content-length: 2") + b"{}")
    assert statuses(connection.received) == [200]
    assert connection.app.served == [b"{}"]
    assert connection.transport.closed
    connection.end()


# Deadlines -----------------------------------------------------------------------------------------------------------


class Clock:
    """The loop, at a time that the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Slow:
    """A connection whose time passes by hand; its timer fires when it is asked."""

    def __init__(self) -> None:
        self.connection = Connection(ok)
        self.clock = Clock()
        protocol = self.connection.protocol
        protocol.loop = self.clock  # type: ignore[assignment]
        protocol._idle_since = self.clock.now
        protocol.head_timeout, protocol.body_timeout, protocol.timeout_keep_alive = 10.0, 60.0, 75

    async def after(self, seconds: float, data: bytes = b"") -> bytes:
        """What has been written when `data` has come so much later, and the timer has fired."""
        self.clock.now += seconds
        if data:
            await self.connection.sends(data)
        self.connection.protocol.timeout_keep_alive_handler()
        await self.connection.sends(b"")
        return self.connection.received


async def test_a_connection_that_says_nothing_is_closed() -> None:
    slow = Slow()
    assert await slow.after(9.9) == b""
    assert not slow.connection.transport.closed
    assert await slow.after(0.1) == b""
    assert slow.connection.transport.closed
    slow.connection.end()


async def test_a_head_has_its_time_from_its_first_byte_and_no_byte_gives_it_more() -> None:
    slow = Slow()
    await slow.after(5.0, HEAD[:1])
    for number in range(1, 10):
        assert await slow.after(1.0, HEAD[number : number + 1]) == b""
    assert statuses(await slow.after(1.0, HEAD[10:11])) == [408]
    assert slow.connection.transport.closed
    assert slow.connection.app.served == []
    slow.connection.end()


async def test_a_body_has_its_time_from_the_end_of_its_head() -> None:
    slow = Slow()
    await slow.after(9.0, HEAD + b"content-length: 100\r\n\r\n")
    for _ in range(59):
        assert await slow.after(1.0, b"x") == b""
    assert statuses(await slow.after(1.1, b"x")) == [408]
    assert slow.connection.transport.closed
    assert slow.connection.app.gate.buffered == 0
    slow.connection.end()


async def test_a_large_body_that_comes_steadily_has_more_time() -> None:
    slow = Slow()
    slow.connection.app.body_limit = 100 * SLOWEST_BODY
    size = 90 * SLOWEST_BODY
    await slow.after(0.0, HEAD + b"content-length: %d\r\n\r\n" % size)
    for _ in range(89):
        assert await slow.after(1.0, b"x" * SLOWEST_BODY) == b""
    assert statuses(await slow.after(1.0, b"x" * SLOWEST_BODY)) == [200]
    slow.connection.end()


async def test_after_an_answer_a_connection_may_be_idle_for_longer_than_a_head_may_take() -> None:
    slow = Slow()
    await slow.after(0.0, HEAD + EMPTY)
    await slow.after(74.9)
    assert not slow.connection.transport.closed
    await slow.after(0.1)
    assert slow.connection.transport.closed
    slow.connection.end()


async def test_the_timer_is_set_again_for_what_is_due_first() -> None:
    slow = Slow()
    await slow.after(0.0, HEAD)
    await slow.after(4.0)
    timer = slow.connection.protocol.timeout_keep_alive_task
    assert timer is not None
    assert 5.0 < timer.when() - asyncio.get_running_loop().time() < 6.1
    slow.connection.end()


# The same bytes, read by h11 -----------------------------------------------------------------------------------------


def by_h11(data: bytes) -> list[Read]:
    """Whole requests, up to what h11 takes for an error, for the connection's last, or for unfinished."""
    found: list[Read] = []
    while (one := first_by_h11(data)) is not None:
        read, data, last = one
        found.append(read)
        if last:
            break
    return found


def first_by_h11(data: bytes) -> tuple[Read, bytes, bool] | None:
    """The first request, what follows it, and whether it is the last."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD + MOST_URL)
    # blank lines before a request are to be skipped (RFC 9112, 2.2); llhttp takes a lone CR for one, which ends nothing
    connection.receive_data(data.lstrip(b"\r\n"))
    asked, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                asked = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and asked is not None:
                last = connection.their_state is not h11.DONE
                return (asked.method, asked.target.removeprefix(b"http://g"), body), connection.trailing_data[0], last
            else:
                return None
    except h11.RemoteProtocolError:
        return None


@given(conversations())
@example(head(b"host: g", b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n" + HEAD + EMPTY)
@settings(deadline=None, max_examples=1500)
def test_whatever_is_served_h11_reads_in_the_same_way(data: bytes) -> None:
    served, read = asyncio.run(by_gateway(data)), by_h11(data)
    assert served == read[: len(served)], data
