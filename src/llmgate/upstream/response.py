"""One answer as it arrives: unframing, buffering, holding the engine back. Written for speed: a call per chunk counts.

Framing is llhttp's (through httptools). It is strict, so an answer with both Content-Length and Transfer-Encoding, two
lengths, or a bare line feed is refused there; what it does not bound (the head, interim answers, trailers and chunk
extensions) is bounded here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

import httptools

from llmgate.core.errors import (
    ConnectionLost,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolViolation,
    Truncated,
    UpstreamError,
)
from llmgate.upstream.base import Take
from llmgate.upstream.reasons import reason_of
from llmgate.wire.headers import find

HIGH_WATER = 64 * 1024  # bytes; more than this unread, and the engine is held back
MAX_HEAD = 64 * 1024  # bytes, interim answers included
MAX_INTERIM = 10  # 1xx answers before the real one


class Line(Protocol):
    """What an answer needs of the connection that it arrives on."""

    def wait(self, seconds: float) -> asyncio.Future[None]:
        """A future for whoever waits; `time_out()` is called on the answer if it still waits after `seconds`."""
        ...

    def touch(self, seconds: float) -> None:
        """Something came: whoever waits now waits for `seconds` from here on."""
        ...

    def hold(self) -> None:
        """Stop receiving."""
        ...

    def resume(self) -> None: ...

    def release(self, reusable: bool) -> None:
        """The answer is done with the connection: keep it for another request, or drop it at once."""
        ...


def _discard(_: bytes) -> None:
    """Swallow the body of an answer to HEAD, which has none whatever its length says."""


class NativeResponse:
    """An UpstreamResponse. The parser calls its on_* methods; the connection calls `feed`, `end` and `time_out`."""

    __slots__ = (
        "_buffered",
        "_held",
        "_idle",
        "_interim",
        "_keep_alive",
        "_line",
        "_no_body",
        "_parse",
        "_parser",
        "_parts",
        "_take",
        "_until_close",
        "_waiter",
        "complete",
        "error",
        "headers",
        "on_body",
        "status",
    )

    # the parser asks each answer for its callbacks, and an AttributeError costs as much as parsing a header
    on_status = on_chunk_header = on_chunk_complete = None

    def __init__(self, line: Line, idle: float, no_body: bool = False) -> None:
        self.status = 0  # 0 until the head is complete
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.error: UpstreamError | None = None
        self._line: Line | None = line
        self._idle = idle
        self._no_body = no_body
        self._interim = 0
        self._keep_alive = False
        self._until_close = False
        self._held = False
        self._buffered = 0  # bytes received since the reader last took what there was, framing included
        self._parts: list[bytes] = []
        self._take: Take | None = None  # what pump() was given, while its task sleeps
        self._waiter: asyncio.Future[None] | None = None
        self.on_body: Callable[[bytes], None] = _discard if no_body else self._parts.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parse: Callable[[bytes], None] = self._parser.feed_data

    # For the reader --------------------------------------------------------------------------------------------------

    @property
    def silent(self) -> bool:
        """Not one byte of an answer has come (meaningful until the head is complete)."""
        return not self._buffered

    @property
    def ended(self) -> bool:
        return self.complete and not self._parts

    def head(self, seconds: float) -> asyncio.Future[None]:
        """Done when the head is complete (`status` is set) or cannot come any more (`error` is set)."""
        assert self._line is not None
        self._waiter = waiter = self._line.wait(seconds)
        return waiter

    async def read(self) -> bytes:
        parts = self._parts
        while not parts:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            if self._waiter is not None and not self._waiter.done():
                raise RuntimeError("another read() is waiting")
            self._waiter = waiter = self._line.wait(self._idle)  # type: ignore[union-attr]  # closing sets `error`
            await waiter
        return self.take()

    def take(self) -> bytes:
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        if self._held:
            self._held = False
            if self._line is not None:
                self._line.resume()
        return data

    async def pump(self, take: Take, drained: Callable[[], Awaitable[None]]) -> None:
        while data := await self.read():
            wants_more = take(data)
            if wants_more and not self.complete and self.error is None and self._line is not None:
                # from here on `feed` gives what comes to `take` itself, without waking this task for each piece
                self._take = take
                self._waiter = waiter = self._line.wait(self._idle)
                try:
                    await waiter
                finally:
                    wants_more = self._take is not None
                    self._take = None
            if not wants_more:
                await drained()

    def close(self) -> None:
        line = self._line
        if line is None:
            return
        self._line = None
        # a response and its parser refer to each other: without this the garbage collector would have to find them
        self._parser = None
        self._parse = _discard
        if not self.complete and self.error is None:
            self.error = Truncated("closed before the end of the answer")
        self._wake()
        line.release(self.complete and self._keep_alive and not self._held)

    # For the connection ----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def feed(self, data: bytes) -> None:
        self._buffered += len(data)
        try:
            if self.status or self._buffered <= MAX_HEAD:
                self._parse(data)
            else:
                self._parse_bounded(data)
        except httptools.HttpParserError as error:
            self._broken(error)
        if self._take is not None and self._parts:
            self._give()
        waiting = self._waiter is not None
        if self._buffered > HIGH_WATER:
            self._overfull(waiting)
        if waiting and (self._parts or self.complete):
            self._wake()

    def end(self, error: Exception | None) -> None:
        """The connection has ended: in order (None), or broken."""
        if self.complete or self.error is not None:
            return
        if self._until_close and error is None:
            self.complete = True
            self._wake()
        elif self.status:
            self._fail(Truncated("the connection ended in the middle of the answer"))
        elif isinstance(error, ssl.SSLError):  # in TLS 1.3 a certificate may be refused after the handshake
            self._fail(ConnectionLost(f"the connection ended before the answer: {reason_of(error)}"))
        elif self._buffered:
            self._fail(ConnectionLost("the connection ended in the middle of the answer's head"))
        else:
            self._fail(ConnectionLost("the connection ended before the first byte of the answer"))

    def time_out(self) -> None:
        if self.status:
            self._fail(IdleTimeout(f"no byte of the answer came for {self._idle:g} s"))
        else:
            self._fail(FirstByteTimeout("the head of the answer did not come in time"))

    # For the parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            raise ProtocolViolation("bytes after the end of the answer")  # they answer no request of ours
        if self._interim:
            self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        name = name.lower()
        value = value.rstrip()  # llhttp leaves blanks at the end
        if name == b"transfer-encoding" and (value.lower() != b"chunked" or find(self.headers, name) is not None):
            raise ProtocolViolation("the answer has a transfer encoding other than chunked")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > MAX_INTERIM:
                raise ProtocolViolation(f"unexpected interim answer {status}")
            return
        if status > 599:
            raise ProtocolViolation(f"the answer has the status {status}")
        self.status = status
        self._keep_alive = parser.should_keep_alive()
        if self._no_body:
            # llhttp waits for a body that will not come, so it cannot go on to another answer
            self.complete = True
            self._keep_alive = False
        elif not self._keep_alive:
            names = {name for name, _ in self.headers}
            self._until_close = b"content-length" not in names and b"transfer-encoding" not in names
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True

    # -----------------------------------------------------------------------------------------------------------------

    def _give(self) -> None:
        parts, take = self._parts, self._take
        assert take is not None
        assert self._line is not None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        self._line.touch(self._idle)
        if not take(data):
            self._take = None
            self._wake()

    def _overfull(self, waiting: bool) -> None:
        if self.complete or not self.status:
            return
        if not self._parts:
            self._fail(Truncated("too many bytes of trailers or chunk extensions"))
        elif not waiting and not self._held and self._line is not None:
            self._held = True
            self._line.hold()

    def _parse_bounded(self, data: bytes) -> None:
        """The limit on the head falls within `data`: it must be complete by there."""
        room = len(data) - (self._buffered - MAX_HEAD)
        self._parse(data[:room])
        if not self.status:
            raise httptools.HttpParserError(f"head larger than {MAX_HEAD} bytes")
        self._parse(data[room:])

    def _broken(self, error: httptools.HttpParserError) -> None:
        if self.complete:
            self._keep_alive = False  # this answer was whole; something followed it
        elif self.status:
            self._fail(Truncated(f"the answer broke the protocol: {error}"))
        elif isinstance(error.__context__, ProtocolViolation):  # raised by one of our on_* methods
            self._fail(error.__context__)
        else:
            self._fail(ProtocolViolation(f"not a valid HTTP answer: {error}"))

    def _fail(self, error: UpstreamError) -> None:
        self.error = error
        self._wake()
        if self._line is not None:
            self._line.release(False)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # its task may have been cancelled
                waiter.set_result(None)
