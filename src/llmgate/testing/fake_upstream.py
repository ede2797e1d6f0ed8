"""A scripted HTTP engine on a real socket, for tests of whatever talks to engines.

It records what it receives byte for byte and sends the raw bytes that it is told to, when it is told to. Drive it from
the test:

    async with FakeUpstream() as up:
        task = asyncio.create_task(something_that_calls(up.url))
        request = await up.request()
        assert request.body == b"{}"
        await request.send(answer(b"hello"))

or let it answer by itself with a script, sent for each request: bytes, events to wait for, CLOSE and RESET:

    go_on = asyncio.Event()
    async with FakeUpstream([STREAM_HEAD, chunk(b"one"), go_on, chunk(b"two"), LAST_CHUNK]) as up: ...

or with a handler, `async def handler(request: ReceivedRequest) -> None`. Nothing here waits for time to pass, but every
wait for the peer ends with an AssertionError after `patience` seconds, so that a broken test fails instead of hanging.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def answer(body: bytes = b"", status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole answer with a Content-Length, as raw bytes."""
    lines = [b"HTTP/1.1 %d Status" % status, *(b": ".join(pair) for pair in headers), b"content-length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body, as raw bytes."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Act(enum.Enum):
    """What a script can do besides sending and waiting."""

    CLOSE = "close"  # end the connection in order, after what was sent
    RESET = "reset"  # break it, losing what was not taken


CLOSE = Act.CLOSE
RESET = Act.RESET
Step = bytes | asyncio.Event | Act
Script = Sequence[Step]


@dataclass(slots=True, eq=False)
class ReceivedRequest:
    """One request, whole: `raw` is what came over the socket, the rest is taken from it."""

    method: bytes
    path: bytes
    headers: list[tuple[bytes, bytes]]  # as they came
    body: bytes
    raw: bytes
    connection: FakeConnection

    def header(self, name: str) -> bytes | None:
        """The value of the first header of that name, whatever its case."""
        wanted = name.lower().encode()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    async def send(self, *pieces: bytes) -> None:
        await self.connection.send(*pieces)

    async def run(self, script: Script) -> None:
        """Send bytes, wait for events, close or reset, in this order."""
        for step in script:
            if isinstance(step, bytes):
                await self.send(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step is CLOSE:
                self.connection.close()
            else:
                self.connection.reset()


T = TypeVar("T")
Handler = Callable[[ReceivedRequest], Awaitable[None]]


class FakeConnection(asyncio.Protocol):
    """The engine's end of one connection. `closed` is set when the peer has ended or broken it."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.received = bytearray()  # everything that ever came
        self.closed = asyncio.Event()
        self.requests: list[ReceivedRequest] = []
        self._upstream = upstream
        self._taken = 0  # bytes of `received` that belong to whole requests
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended_by_us = False
        self._lost = False

    # What tests use --------------------------------------------------------------------------------------------------

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by a write of its own; returns when little of it is left in this process.

        Raises ConnectionResetError when the peer has gone.
        """
        for piece in pieces:
            await self._writable.wait()
            if self.closed.is_set():
                raise ConnectionResetError("the peer has closed the connection")
            self._transport.write(piece)
        await self._writable.wait()

    def close(self) -> None:
        """End in order: what was sent is still delivered."""
        self._ended_by_us = True
        self._transport.close()

    def half_close(self) -> None:
        """End the engine's direction only; not over TLS."""
        self._transport.write_eof()

    def reset(self) -> None:
        """Break it at once, with a TCP reset where there is TCP."""
        if self._lost:
            return
        self._ended_by_us = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def pause(self) -> None:
        """Stop receiving, so that the peer's writes back up."""
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes sent by the test that the peer's side has not taken yet."""
        return self._transport.get_write_buffer_size()

    # Called by the event loop ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        self._upstream._connected(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (request := self._next_request()) is not None:
            self.requests.append(request)
            self._upstream._received(request)

    def eof_received(self) -> None:
        self._peer_closed()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._writable.set()
        if not self._ended_by_us:
            self._peer_closed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -----------------------------------------------------------------------------------------------------------------

    def _peer_closed(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self._upstream._peer_closed()

    def _next_request(self) -> ReceivedRequest | None:
        """The next request that is there in whole. Bodies have a Content-Length, as llmgate's clients always send."""
        start = self._taken
        head_end = self.received.find(b"\r\n\r\n", start)
        if head_end < 0:
            return None
        first, *lines = bytes(self.received[start:head_end]).split(b"\r\n")
        method, path, _ = first.split(b" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
        end = head_end + 4 + length
        if len(self.received) < end:
            return None
        self._taken = end
        raw = bytes(self.received[start:end])
        return ReceivedRequest(method, path, headers, raw[head_end + 4 - start :], raw, self)


@dataclass(slots=True)
class _Counter:
    """A number that can be waited for."""

    value: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        self.value += 1
        self._changed.set()

    async def reaches(self, n: int) -> None:
        while self.value < n:
            self._changed.clear()
            await self._changed.wait()


class FakeUpstream:
    """The engine: listens while its `async with` block runs.

    `behaviour`: None (the test answers), a script for every request, or a handler. `host` may be an IPv6 address;
    `unix` a path to listen on instead; `tls` a server-side context. `patience` in seconds.
    """

    def __init__(
        self,
        behaviour: Script | Handler | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix: Path | None = None,
        tls: ssl.SSLContext | None = None,
        patience: float = 5.0,
    ) -> None:
        self.host = host
        self.port = port
        self.connections: list[FakeConnection] = []
        self.requests: list[ReceivedRequest] = []
        self._behaviour = behaviour
        self._unix = unix
        self._tls = tls
        self._patience = patience
        self._queue: asyncio.Queue[ReceivedRequest] = asyncio.Queue()
        self._connections_made = _Counter()
        self._connections_closed = _Counter()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        if self._unix is not None:
            return f"unix:{self._unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop` on the same address again."""
        loop = asyncio.get_running_loop()
        if self._unix is not None:
            self._server = await loop.create_unix_server(lambda: FakeConnection(self), str(self._unix), ssl=self._tls)
        else:
            self._server = await loop.create_server(
                lambda: FakeConnection(self), self.host, self.port, ssl=self._tls, backlog=1024
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: stop listening and break every connection. Raises what a handler raised."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.connections:
            connection.reset()
        for task in self._handlers:
            task.cancel()
        results = await asyncio.gather(*self._handlers, return_exceptions=True)
        self._handlers.clear()
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn of the loop
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionResetError):
                raise result

    async def request(self) -> ReceivedRequest:
        """The next request, in the order they came; waits for it."""
        return await self._wait(self._queue.get(), "no (further) request came")

    async def connected(self, n: int = 1) -> FakeConnection:
        """Waits until `n` connections were made in all; returns the n-th."""
        await self._wait(self._connections_made.reaches(n), f"fewer than {n} connections were made")
        return self.connections[n - 1]

    async def closed(self, n: int = 1) -> None:
        """Waits until the peer has closed (or broken) `n` connections in all."""
        await self._wait(self._connections_closed.reaches(n), f"the peer closed fewer than {n} connections")

    @property
    def peer_closed(self) -> int:
        """How many connections the peer has closed by now."""
        return self._connections_closed.value

    async def _wait(self, what: Awaitable[T], otherwise: str) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await what
        except TimeoutError:
            raise AssertionError(f"{otherwise} within {self._patience:g} s") from None

    # Called by the connections ---------------------------------------------------------------------------------------

    def _connected(self, connection: FakeConnection) -> None:
        self.connections.append(connection)
        self._connections_made.add()

    def _received(self, request: ReceivedRequest) -> None:
        self.requests.append(request)
        self._queue.put_nowait(request)
        behaviour = self._behaviour
        if behaviour is not None:
            run = behaviour(request) if callable(behaviour) else request.run(behaviour)
            self._handlers.add(asyncio.ensure_future(run))

    def _peer_closed(self) -> None:
        self._connections_closed.add()
