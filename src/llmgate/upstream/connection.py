"""One connection to an engine: a socket, one answer at a time, and one lazy timer."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from llmgate.upstream.response import NativeResponse

if TYPE_CHECKING:
    from llmgate.upstream.pool import Pool


class Connection(asyncio.Protocol):
    """Tells its pool when it opens, when it can take another request, and (once) when it can no longer."""

    __slots__ = (
        "_deadline",
        "_loop",
        "_pool",
        "_response",
        "_timer",
        "_timer_at",
        "_transport",
        "idle_since",
        "open",
    )

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._response: NativeResponse | None = None
        self._deadline = inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.open = False
        self.idle_since = 0.0  # the pool's

    # For the client --------------------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes, idle: float, no_body: bool) -> NativeResponse:
        """Send a request; what is returned has no head yet. `idle` in seconds, `no_body` for an answer to HEAD."""
        self._response = response = NativeResponse(self, idle, no_body)
        self._transport.writelines((head, body))  # uvloop: one system call and no copy
        return response

    def abort(self) -> None:
        """Drop it at once, whatever is unsent or unread: the engine sees it immediately."""
        if self.open:
            self._transport.abort()
            self._lost(ConnectionAbortedError())

    # For the response (its Line) -------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> asyncio.Future[None]:
        # One timer serves every wait of the connection's life: it is moved only for an earlier deadline, and set again
        # when it fires too early. With equal timeouts that is one timer in a timeout's time, not one for each chunk.
        loop = self._loop
        self._deadline = deadline = loop.time() + seconds
        if deadline < self._timer_at:
            self._set_timer(deadline)
        return loop.create_future()

    def touch(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds

    def hold(self) -> None:
        if self.open:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.open:
            self._transport.resume_reading()

    def release(self, reusable: bool) -> None:
        self._response = None
        # an engine that answered before it had the whole request leaves the connection in doubt
        if self.open and reusable and not self._transport.get_write_buffer_size():
            self._pool.put(self)
        else:
            self.abort()

    # For the event loop ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport
        self.open = True
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is not None:
            response.feed(data)
        else:
            self.abort()  # nobody asked for this: it must not pass for the answer to the next request

    def eof_received(self) -> None:
        self._lost(None)
        self._transport.abort()  # a transport with unsent data would wait until the engine takes it

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(error)

    # -----------------------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception | None) -> None:
        if not self.open:
            return
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.lost(self)
        response, self._response = self._response, None
        if response is not None:
            response.end(error)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)
        self._timer_at = at

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        response = self._response
        if response is None or not response.waiting:
            return  # the next wait sets it again
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        else:
            response.time_out()
