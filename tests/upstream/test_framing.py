"""Where an engine's answer ends: read by the gateway and by h11, which must agree on whatever the gateway takes."""

from __future__ import annotations

import asyncio
import os
import re
from typing import NamedTuple

import h11
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llmgate.upstream.response import NativeResponse
from tests.support.requests import one_of

ODD_REASON = re.compile(rb"HTTP/\S+ \d{3} [^\r\n]*[\0-\x08\x0b\x0c]")
"""h11 minds control characters in a reason phrase. The gateway passes on a status and no phrase."""


class Read(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    reusable: bool  # the connection, for another request


class Socket:
    """A Line that nothing is behind."""

    def __init__(self) -> None:
        self.reusable = False

    def wait(self, seconds: float) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def touch(self, seconds: float) -> None:
        pass

    def hold(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def release(self, reusable: bool) -> None:
        self.reusable = reusable


def by_gateway(pieces: list[bytes]) -> Read | None:
    """None: it is broken, or was not whole when the connection ended."""
    line = Socket()
    response = NativeResponse(line, 1.0)
    for piece in pieces:
        if response.error is None:
            response.feed(piece)
    body = response.take()
    if not response.complete:
        response.end(None)
    whole = response.complete and response.error is None
    response.close()
    return Read(response.status, body, line.reusable) if whole else None


def by_h11(data: bytes) -> Read | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "engine"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data.lstrip(b"\r\n"))  # llhttp skips blank lines, and a lone CR, before an answer too
    status, body = 0, b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.trailing_data[1]:
                    return None
                connection.receive_data(b"")  # the engine has closed
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                left, closed = connection.trailing_data
                return Read(status, body, connection.their_state is h11.DONE and not left and not closed)
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


LINE_ENDS = one_of(r"\r\n|\r\n|\r\n|\r\n|\n|\r|\r\n |\n\r\n")
VERSIONS = one_of("HTTP/1.1|HTTP/1.1|HTTP/1.1|HTTP/1.0|HTTP/1.2|HTTP/2.0|http/1.1|ICY|")
STATUSES = one_of("200|200|200|404|503|204|304|100|103|101|99|600|1000|20|0200|+200|2e2|")
REASONS = one_of(r" OK| OK| ||  OK| a\tb| \xff| a\0b")
NAMES = one_of(
    r"Content-Length|Content-Length|Transfer-Encoding|Transfer-Encoding|Connection|Content-Length | Content-Length|X_A"
    r"|Upgrade|Content\tLength|Transfer-Encoding\0|Content-Type|Trailer|"
)
COLONS = one_of(": |:| : |")
VALUES = one_of(
    r"0|5|5|+5|05|5,5|5, 6|0x5|chunked|chunked|Chunked|gzip, chunked|close|identity|chunked, chunked|\tchunked"
    r'|chunked\t |"chunked"|keep-alive|h2c|\x0bchunked|| |5 |-1|99999999999999999999|a\rb|a\nb|a\0b|\xff'
)
BODIES = one_of(
    r"|hello|5\r\nhello\r\n0\r\n\r\n|5;a=b\r\nhello\r\n0\r\n\r\n|0\r\n\r\n|5\nhello\n0\n\n|0x5\r\nhello\r\n0\r\n\r\n"
    r"|5\r\nhello0\r\n\r\n|+5\r\nhello\r\n0\r\n\r\n|5 \r\nhello\r\n0\r\n\r\n|0\r\nContent-Length: 9\r\n\r\n"
    r"|00000005\r\nhello\r\n000\r\n\r\n|ffffffffffffffff5\r\nhello\r\n0\r\n\r\n|5;\r\nhello\r\n0\r\n\r\n"
    r"|5\r\nhello\r\n0\r\na\r\n\r\n|5;a=\x00\r\nhello\r\n0\r\n\r\n|hello, and more|5\r\nhello\r\n0\r\n\r\nmore"
)
CUTS = one_of(r"|\r|\n|\0| |\t|:|;|,|0|5|\x0b|\xff")


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    end = LINE_ENDS if draw(st.booleans()) else st.just(b"\r\n")
    lines = [draw(VERSIONS) + b" " + draw(STATUSES) + draw(REASONS)]
    if (length := draw(st.integers(0, 2))) < 2:
        lines.append((b"Content-Length: 5", b"Transfer-Encoding: chunked")[length])
    lines += [draw(NAMES) + draw(COLONS) + draw(VALUES) for _ in range(draw(st.integers(0, 2)))]
    return b"".join(line + draw(end) for line in lines) + draw(end) + draw(BODIES)


@st.composite
def sendings(draw: st.DrawFn) -> list[bytes]:
    """What an engine sends before it closes, in one piece or two."""
    data = b"".join(draw(st.lists(answers(), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(CUTS) + data[at + draw(st.integers(0, 1)) :]
    at = draw(st.integers(0, len(data)))
    return [piece for piece in (data[:at], data[at:]) if piece]


def test_a_good_answer_is_taken_whole_by_both() -> None:
    """Or the comparison below would compare nothing."""
    for framing in (b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"):
        good = b"HTTP/1.1 200 OK\r\n" + framing
        assert by_gateway([good]) == by_h11(good) == Read(200, b"hello", True)


@given(sendings())
@example([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"])
@example([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
@settings(deadline=None, max_examples=int(os.environ.get("FUZZ", "1500")))
def test_whatever_is_taken_for_a_whole_answer_h11_reads_in_the_same_way(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assume(not ODD_REASON.search(data))
    taken, read = by_gateway(pieces), by_h11(data)
    if taken is not None:
        assert read is not None, pieces
        assert (taken.status, taken.body) == (read.status, read.body), pieces
        assert read.reusable or not taken.reusable, pieces
