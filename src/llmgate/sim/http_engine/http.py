"""HTTP/1.1 on asyncio.Protocol and httptools: requests in, answers written from wherever the engine's clock says so.

uvicorn and ASGI would serve as well, but wake a task for each write, and eight engines share a core. A connection has
one exchange at a time; what a client sends ahead waits its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import TypeAlias, cast
from urllib.parse import unquote

import httptools

MAX_BODY_BYTES = 64 * 1024 * 1024

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

Handler: TypeAlias = Callable[["Exchange"], None]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Exchange:
    """One request and its answer: either `respond`, or `start_stream`, `write` …, `end`.

    `gone` is called once if the client leaves before the answer is complete; what is written after that is dropped.
    """

    __slots__ = ("_chunked", "_connection", "_keep_alive", "arrived", "body", "gone", "headers", "method", "target")

    def __init__(self, connection: Connection, method: str, target: bytes, headers: dict[bytes, bytes]) -> None:
        self._connection: Connection | None = connection
        self._keep_alive = True
        self._chunked = True
        self.method = method
        self.target = target
        self.headers = headers  # names in lower case
        self.body = b""
        self.arrived = 0.0  # s of time.monotonic, when the last of it was there
        self.gone: Callable[[], None] | None = None

    def complete(self, body: bytes, arrived: float, *, keep_alive: bool, chunked: bool) -> None:
        """All of the request is there."""
        self.body, self.arrived, self._keep_alive, self._chunked = body, arrived, keep_alive and chunked, chunked

    @property
    def path(self) -> str:
        return unquote(self.target.partition(b"?")[0].decode("latin-1"))

    @property
    def query(self) -> str:
        return self.target.partition(b"?")[2].decode("latin-1")

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def open(self) -> bool:
        return self._connection is not None

    def respond(
        self, status: int, body: bytes = b"", content_type: str | None = JSON, extra: dict[str, str] | None = None
    ) -> None:
        if self._connection is not None:
            head = self._head(
                status, content_type if body else None, {"content-length": str(len(body)), **(extra or {})}
            )
            self._connection.transport.write(head + (b"" if self.method == "HEAD" else body))
            self._finish()

    def start_stream(self) -> None:
        if self._connection is not None:
            framing = {"transfer-encoding": "chunked"} if self._chunked else {}
            self._connection.transport.write(self._head(200, EVENT_STREAM, framing))

    def write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, data: bytes = b"") -> None:
        """The end of a stream, with what may be left to write."""
        if self._connection is not None:
            last = b"%x\r\n%b\r\n" % (len(data), data) if data and self._chunked else data
            self._connection.transport.write(last + b"0\r\n\r\n" if self._chunked else last)
            self._finish()

    def cut(self) -> None:
        """Close the connection as a process that has died leaves it."""
        if self._connection is not None:
            self._connection.transport.abort()

    def left(self) -> None:
        """The connection is no more."""
        self._connection = None
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        self.gone = None
        if connection is not None:
            connection.answered(keep_alive=self._keep_alive)

    def _head(self, status: int, content_type: str | None, fields: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", f"date: {formatdate(usegmt=True)}", "server: uvicorn"]
        if content_type is not None:
            fields["content-type"] = content_type
        if not self._keep_alive:
            fields["connection"] = "close"
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Connection(asyncio.Protocol):
    """`connections` holds those that are open."""

    transport: asyncio.Transport

    def __init__(self, handle: Handler, connections: set[Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._incoming: Exchange | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._now = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._waiting.clear()
        current, self._current = self._current, None
        if current is not None:
            current.left()

    def answered(self, *, keep_alive: bool) -> None:
        """The current exchange is over."""
        self._current = None
        if not keep_alive:
            self._waiting.clear()
            self.transport.close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._serve_next)  # not from here: answers may come at once, in a row

    # what the parser calls

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body, self._size = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._incoming = Exchange(self, method, self._target, self._headers)
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self._refuse(413)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        if exchange is None or self.transport.is_closing():
            return
        exchange.complete(
            b"".join(self._body),
            self._now,
            keep_alive=self._parser.should_keep_alive(),
            chunked=self._parser.get_http_version() == "1.1",
        )
        self._body = []
        if self._current is None and not self._waiting:
            self._serve(exchange)
        else:
            self._waiting.append(exchange)
            self.transport.pause_reading()

    def _serve_next(self) -> None:
        if self._current is None and self._waiting:
            self._serve(self._waiting.popleft())
            if not self._waiting:
                self.transport.resume_reading()

    def _serve(self, exchange: Exchange) -> None:
        self._current = exchange
        self._handle(exchange)

    def _refuse(self, status: int) -> None:
        """What was sent is no request; nothing that follows can be understood."""
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status} {_PHRASES[status]}\r\nconnection: close\r\n\r\n".encode())
            self.transport.close()
