"""uvicorn's HTTP protocol with a short way for inference requests.

A POST to one of the application's direct routes goes from the parser to the proxy without ASGI in between: no scope,
no receive and send, no task to watch for the client's leaving, and the head of an answer leaves with its first bytes in
one system call. Everything else, and every request out of the ordinary (pipelined, `Expect`, HTTP/1.0, an upgrade, a
query), takes uvicorn's own way to the same application.

It reaches into uvicorn where it must: to uvicorn, a DirectClient is the connection's current request cycle. uvicorn is
pinned, and tests/gateway/test_protocol.py holds what is relied on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llmgate.core.errors import BadRequest, BodyTooLarge, LlmgateError
from llmgate.gateway.gate import Gate
from llmgate.gateway.guarded import GuardedProtocol
from llmgate.wire.headers import Header, find

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and dropped; nginx's lingering_timeout is 5 s."""

SURPLUS_SECONDS = 1.0
"""How long a connection beyond the limit, or one that is new when the server stops, has to send its request."""

BODILESS = frozenset({204, 304})
"""Their answers have no body, whatever Content-Length says."""

LONG = frozenset({413, 414, 431})
"""Of a request refused with these more is on its way: it is waited for, or the client might not get its answer."""

Serve = Callable[["DirectClient"], Awaitable[None]]


class DirectApp(Protocol):
    """What an application must have for its direct routes."""

    direct: Mapping[bytes, Serve]  # by path
    refuse: Callable[[DirectClient, LlmgateError], Awaitable[None]]  # answers a request whose body was not read
    body_limit: int  # bytes
    gate: Gate


class _NoEvent:
    """uvicorn sets a cycle's event to wake `receive()`; there is none here."""

    def set(self) -> None:
        pass


_NO_EVENT = _NoEvent()


class DirectClient:
    """A Client straight on its connection; at the same time what uvicorn takes for its RequestResponseCycle."""

    __slots__ = (
        "_chunked",
        "_flow",
        "_left",
        "_protocol",
        "_transport",
        "body",
        "extra",
        "gone",
        "headers",
        "keep_alive",
        "message_event",
        "pieces",
        "received",
        "refused",
        "response_complete",
        "sent",
        "target",
        "task",
    )

    def __init__(self, protocol: GatewayProtocol, keep_alive: bool) -> None:
        self.headers: list[Header] = protocol.headers
        self.target = protocol.url
        self.body = b""
        self.pieces: list[bytes] = []
        self.received = 0  # bytes of the body so far
        self.gone = False
        self.sent = 0
        self.extra: Iterable[Header] = ()  # headers of the answer, beside those it is given
        self.task: asyncio.Task[None] | None = None  # that serves it
        self.keep_alive = keep_alive
        self.response_complete = False
        self.message_event = _NO_EVENT
        self.refused = False  # before its body was read
        self._protocol = protocol
        self._transport = protocol.transport
        self._flow: FlowControl = protocol.flow
        self._chunked = False
        self._left = 0  # of the announced Content-Length

    @property
    def peer(self) -> str:
        address = self._protocol.client
        return address[0] if address else ""

    @property
    def disconnected(self) -> bool:
        return self.gone

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        """uvicorn says that the connection was lost while this request was under way."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        """Names and values must be free of CR, LF and NUL, as parsed ones are."""
        if self.gone:
            return True
        length = find(headers, b"content-length")
        lines = [b": ".join(pair) for pair in headers]
        if self.extra:
            lines += [b": ".join(pair) for pair in self.extra]
        defaults = self._protocol.default_lines()
        if not self.keep_alive:
            lines.append(b"connection: close")
        if length is not None and status not in BODILESS:
            self._left = int(length)
        elif status not in BODILESS:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        head = b"%b%b%b\r\n\r\n" % (STATUS_LINE[status], defaults, b"\r\n".join(lines))
        self._transport.write(head + self._framed(body, more))
        if not more:
            self._finish()
        return not self._flow.write_paused

    def write(self, body: bytes, more: bool) -> bool:
        if self.gone:
            return True
        if data := self._framed(body, more):
            self._transport.write(data)
        if not more:
            self._finish()
        return not self._flow.write_paused

    async def drained(self) -> None:
        if self._flow.write_paused and not self.gone and not self.response_complete:
            await self._flow.drain()

    def _framed(self, body: bytes, more: bool) -> bytes:
        self.sent += len(body)
        if self._chunked:
            if more:
                return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            raise RuntimeError("the answer's body is not as long as its Content-Length")
        return body

    def _finish(self) -> None:
        self.response_complete = True
        if self.refused:
            self._protocol.linger()
        elif not self.keep_alive:
            self._protocol.hang_up()
        self._protocol.on_response_complete()


class GatewayProtocol(GuardedProtocol):
    """One client connection."""

    _gate: Gate
    _stall: asyncio.TimerHandle | None = None  # set while the client does not take what waits for it
    _direct: DirectClient | None = None  # the last direct request
    _receiving: DirectClient | None = None  # the same, while its body is still coming
    _default_headers: list[Header] | None = None  # those that _default_lines was made of
    _default_lines = b""

    def default_lines(self) -> bytes:
        """Headers of each answer, such as the date, as they go out. uvicorn makes a new list of them each second. With
        `connection: close` among them (Server.announce_end), the answer that begins is the connection's last."""
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            self._default_headers = headers
            lasting = [pair for pair in headers if pair[0] != b"connection"]
            self._default_lines = b"".join([b"%b: %b\r\n" % pair for pair in lasting])
            if len(lasting) < len(headers):
                self.cycle.keep_alive = False
        return self._default_lines

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        gate = self.config.loaded_app.gate
        if len(self.connections) > gate.limits.connections:
            gate = gate.surplus()
            self.loop.call_later(SURPLUS_SECONDS, self._close_when_idle)
        self._gate = gate
        self.head_timeout, self.body_timeout = gate.limits.head_timeout, gate.limits.body_timeout
        self.watch()

    def on_headers_complete(self) -> None:
        error = self.head_is_complete()
        if error is not None:
            self.refuse_head(error)
            return
        app: DirectApp = self.config.loaded_app
        serve = app.direct.get(self.url)
        if serve is None or not self._ordinary():
            if self.parser.get_method() == b"CONNECT":  # what follows is no HTTP
                self.refuse_head(BadRequest("CONNECT is not served: this is no forward proxy."))
                return
            self._begin_asgi()
            super().on_headers_complete()
            self.headers = []  # trailers are no headers
            return
        client = DirectClient(self, self.parser.should_keep_alive())
        self.headers = []  # trailers are no headers
        self.cycle = client  # type: ignore[assignment]
        self._direct = self._receiving = client
        gate, length = self._gate, self.length
        if length > app.body_limit:
            self._refuse(client, _too_large(app.body_limit))
        elif len(self.tasks) >= gate.most_in_flight or gate.buffered + length > gate.most_buffered:
            self._refuse(client, gate.refusal(len(self.tasks)))

    def on_body(self, body: bytes) -> None:
        client = self._receiving
        if client is None:
            if not isinstance(self.cycle, DirectClient):  # else: what is left of a refused body
                super().on_body(body)
            return
        gate, size = self._gate, len(body)
        client.pieces.append(body)
        client.received += size
        gate.buffered += size
        limit = self.config.loaded_app.body_limit
        if client.received > limit:
            self._refuse(client, _too_large(limit))
        elif gate.buffered > gate.most_buffered:
            self._refuse(client, gate.refusal(0))

    def on_message_complete(self) -> None:
        self.unfinished = False
        client = self._receiving
        if client is None:
            if not isinstance(self.cycle, DirectClient):
                HttpToolsProtocol.on_message_complete(self)
            elif self.cycle.response_complete:
                self.transport.close()  # a refused body has been heard out
            else:
                self.cycle.refused = False  # the same, before the refusal was written: no need to linger after it
            return
        if len(self.tasks) >= self._gate.most_in_flight:  # others have come while its body did
            self._refuse(client, self._gate.refusal(len(self.tasks)))
            client.refused = False  # it has been heard out
            return
        self._receiving = None
        pieces = client.pieces
        client.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        client.pieces = []
        app: DirectApp = self.config.loaded_app
        self._start(client, app.direct[client.target])

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_stall()
        super().connection_lost(exc)
        if self._receiving is not None:
            self.release(self._receiving)
        direct, self._direct, self._receiving = self._direct, None, None
        if direct is not None and not direct.response_complete:
            direct.disconnected = True  # uvicorn tells only the last of pipelined requests

    def pause_writing(self) -> None:
        super().pause_writing()
        self._begin_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def shutdown(self) -> None:
        """A connection that is as new as the end of the server: its request is on the way, and gets its answer."""
        if self.cycle is None:
            self.loop.call_later(SURPLUS_SECONDS, self._close_when_idle)
        else:
            super().shutdown()

    def hang_up(self) -> None:
        """Close once the client has taken all there is for it, if it does so in time."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._begin_stall()

    def release(self, client: DirectClient) -> None:
        """Its body is no longer held."""
        self._gate.buffered -= client.received
        client.received = 0
        client.body = b""  # the connection keeps the client until its next request
        client.pieces = []

    def linger(self) -> None:
        """Close once the client has sent all it had to send, or soon: a close before that can cost it the answer."""
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # -----------------------------------------------------------------------------------------------------------------

    def refuse_head(self, error: LlmgateError) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # pipelined: those before it get their answers
            self._deaf = True
            return
        client = self._direct = DirectClient(self, False)
        self.cycle = client  # type: ignore[assignment]
        self._refuse(client, error)
        client.refused = error.status in LONG

    def refuse_body(self, error: LlmgateError) -> None:
        if self._receiving is not None:
            client = self._receiving
            self._refuse(client, error)
            client.refused = False
        elif not isinstance(self.cycle, DirectClient):
            self.transport.close()  # its application waits for it

    def _begin_asgi(self) -> None:
        """What uvicorn does when a message begins, and inference requests do without."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expect
        self.headers += headers  # the scope's own list

    def _ordinary(self) -> bool:
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused  # a client that asks without reading must wait: on uvicorn's way it does
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        )

    def _start(self, client: DirectClient, serve: Serve) -> None:
        client.task = self.loop.create_task(self._run(client, serve))
        self.tasks.add(client.task)

    async def _run(self, client: DirectClient, serve: Serve) -> None:
        try:
            await serve(client)
        finally:
            task: Any = client.task
            self.tasks.discard(task)
            self.release(client)
            if not client.response_complete and not client.gone:
                self.transport.close()  # an answer that broke off must not look complete

    def _refuse(self, client: DirectClient, error: LlmgateError) -> None:
        """Answer without reading the body, or its rest, and give up the connection with what is still to come."""
        self._receiving = None
        self.release(client)
        client.refused = True
        client.keep_alive = False
        app: DirectApp = self.config.loaded_app
        self._start(client, lambda refused: app.refuse(refused, error))

    def _close_when_idle(self) -> None:
        if self.transport.is_closing():
            return
        if self._receiving is None and (self.cycle is None or self.cycle.response_complete):
            self.hang_up()
        else:
            self.loop.call_later(SURPLUS_SECONDS, self._close_when_idle)

    def _begin_stall(self) -> None:
        if self._stall is None and (patience := self._gate.limits.send_timeout) < inf:
            self._stall = self.loop.call_later(patience, self._cut_stalled)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _cut_stalled(self) -> None:
        """The client has left too much untaken for too long: to whoever serves it, it has gone."""
        self._stall = None
        app: DirectApp = self.config.loaded_app
        app.gate.stalled += 1
        self.transport.abort()


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit} bytes.")
