"""uvicorn's HTTP protocol with two things added for the hot path, offered to the application as `scope[CLIENT]`.

- The head of an answer is written together with its first body bytes: one system call instead of two, and one wake-up
  of the peer. `send` does no more checks than its only caller needs.
- `on_gone`: a callback for the moment the client's connection ends, in place of a task that waits in `receive()`.

It reaches into uvicorn where it must (`_start_asgi_task`, the cycle's state): uvicorn is pinned, and
tests/gateway/test_protocol.py holds what is relied on. Applications run on any other ASGI server without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llmgate.gateway.asgi import Message

CLIENT = "llmgate.client"


class Client:
    """The client's side of one request: where its answer is written, and word of its leaving."""

    __slots__ = ("_chunked", "_cycle", "_head", "_left", "on_gone")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.on_gone: Callable[[], object] | None = None
        self._cycle = cycle
        self._head: bytes | None = None  # not written yet
        self._chunked = False
        self._left = 0  # of the announced Content-Length

    def lost(self) -> None:
        if not self._cycle.response_complete:
            self._cycle.disconnected = True  # uvicorn marks only the last of pipelined requests
            if self.on_gone is not None:
                self.on_gone()

    async def send(self, message: Message) -> None:
        """ASGI's send. Header names and values must be free of CR, LF and NUL, as parsed ones are."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
        elif cycle.response_complete or not cycle.response_started:
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")
        else:
            self._write(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        cycle = self._cycle
        if cycle.response_started:
            raise RuntimeError("the answer was started twice")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if not cycle.more_body:
            keep_alive = cycle.keep_alive
        else:  # answered before its body was read: what is still to come must not pass for the next request
            keep_alive = cycle.keep_alive = False
        length = None
        lines = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name == b"content-length":
                length = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        if cycle.scope["method"] == "HEAD" or status in (204, 304):
            self._left = 0
        elif length is not None:
            self._left = length
        else:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def _write(self, body: bytes, more: bool) -> None:
        cycle = self._cycle
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = framed if more else framed + b"0\r\n\r\n"
        else:
            if cycle.scope["method"] == "HEAD":
                body = b""
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer's body is not as long as its Content-Length")
            data = body
        if self._head is not None:
            data = self._head + data
            self._head = None
        if data:
            cycle.transport.write(data)
        if not more:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()


class GatewayProtocol(HttpToolsProtocol):
    """One client connection."""

    _client: Client | None = None  # of the request that is being answered

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._client = client = Client(cycle)
        cycle.send = client.send  # type: ignore[method-assign, assignment]
        cycle.scope[CLIENT] = client  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        client, self._client = self._client, None
        if client is not None:
            client.lost()
