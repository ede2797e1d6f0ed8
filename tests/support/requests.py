"""Requests as strangers may send them, spoilt at random, and what the gateway's protocol makes of them."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from tests.gateway.test_protocol import Connection, ok

Read = tuple[bytes, bytes, bytes]  # method, target, body


async def by_gateway(data: bytes) -> list[Read]:
    served: list[Read] = []

    async def serve(client: Any) -> None:
        served.append((b"POST", client.target, client.body))
        await ok(client)

    connection = Connection(serve)
    plain = connection.app.__class__.__call__

    async def recorded(self: Any, scope: Any, receive: Any, send: Any) -> None:
        before = len(self.served)
        await plain(self, scope, receive, send)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        served.append((scope["method"].encode(), scope["raw_path"] + query, self.served[before]))

    connection.protocol.app = lambda *args: recorded(connection.app, *args)
    connection.protocol.data_received(data)
    for _ in range(100):  # turns of the loop: three requests need some ten each
        await asyncio.sleep(0)
    connection.end()  # what waits for the rest of a body learns that there is none
    for task in list(connection.state.tasks):
        task.cancel()
    return served


def one_of(text: str) -> st.SearchStrategy[bytes]:
    r"""One of the parts, which are separated by `|` and may hold escapes such as \r."""
    return st.sampled_from([part.encode().decode("unicode_escape").encode("latin-1") for part in text.split("|")])


LINE_ENDS = one_of(r"\r\n|\r\n|\r\n|\r\n|\n|\r|\r\n |\n\r\n")
METHODS = one_of("POST|POST|GET|HEAD|PUT|post|P OST|CONNECT|OPTIONS")
TARGETS = one_of(r"/direct|/direct|/plain|/direct?a=1|/direct#a|*|http://g/direct|//direct|/\xff|")
VERSIONS = one_of("HTTP/1.1|HTTP/1.1|HTTP/1.0|HTTP/1.2|HTTP/2.0|http/1.1|")
NAMES = one_of(
    r"Host|Host|Content-Length|Content-Length|Transfer-Encoding|Transfer-Encoding|Connection|Content-Length | Host|X_A"
    r"|Expect|Upgrade|Content\tLength|Transfer-Encoding\0|"
)
COLONS = one_of(": |:| : |")
VALUES = one_of(
    r"g|0|5|5|+5|05|5,5|0x5|chunked|chunked|Chunked|gzip, chunked|close|identity|chunked, chunked|\tchunked|chunked\t "
    r'|"chunked"|keep-alive|h2c|\x0bchunked|100-continue|| |5 |-1|99999999999999999999|a\rb|a\nb|a\0b|\xff'
)
BODIES = one_of(
    r"|hello|5\r\nhello\r\n0\r\n\r\n|5;a=b\r\nhello\r\n0\r\n\r\n|0\r\n\r\n|5\nhello\n0\n\n|0x5\r\nhello\r\n0\r\n\r\n"
    r"|5\r\nhello0\r\n\r\n|+5\r\nhello\r\n0\r\n\r\n|5 \r\nhello\r\n0\r\n\r\n|0\r\nHost: x\r\n\r\n"
    r"|00000005\r\nhello\r\n000\r\n\r\n|ffffffffffffffff5\r\nhello\r\n0\r\n\r\n|5;\r\nhello\r\n0\r\n\r\n"
    r"|5\r\nhello\r\n0\r\na\r\n\r\n|5;a=\x00\r\nhello\r\n0\r\n\r\n"
)
CUTS = one_of(r"|\r|\n|\0| |\t|:|;|,|0|5|\x0b|\xff")


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    end = LINE_ENDS if draw(st.booleans()) else st.just(b"\r\n")
    lines = [b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)])]
    if draw(st.integers(0, 3)):
        lines.append(b"Host: g")
    lines += [draw(NAMES) + draw(COLONS) + draw(VALUES) for _ in range(draw(st.integers(0, 3)))]
    return b"".join(line + draw(end) for line in lines) + draw(end) + draw(BODIES)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(messages(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(CUTS) + data[at + draw(st.integers(0, 1)) :]
    return data
