"""The reference client: the same contract kept by httpx2, a general HTTP library. Slower by far; not on the data path.

It works on httpx2's transport rather than on its AsyncClient, which would add headers of its own, keep cookies, follow
redirects and log URLs. Three rules of the contract httpx2 cannot keep: bytes after the end of an answer are taken for
the next one if they came with it, interim answers are not counted, and the size of a head is bounded at 100 KiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2

from llmgate.core.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolViolation,
    Truncated,
    UpstreamError,
)
from llmgate.upstream.base import Headers, Take, Target, Timeouts


class HttpxResponse:
    """An UpstreamResponse."""

    def __init__(self, response: httpx2.Response, idle: float, background: set[asyncio.Task[None]]) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        self._body: AsyncIterator[bytes] = response.aiter_raw()
        self._idle = idle
        self._background = background
        self._reading: asyncio.Task[bytes] | None = None
        self._complete = False
        self._closed = False

    @property
    def ended(self) -> bool:
        return self._complete

    async def read(self) -> bytes:
        if self._complete:
            return b""
        if self._closed:
            raise Truncated("closed before the end of the answer")
        # a task, kept when its reader is cancelled: cancelling httpx2 in the middle of a read loses the connection
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._next())
        try:
            data = await asyncio.shield(self._reading)
        except asyncio.CancelledError:
            if self._closed:  # it was close() that cancelled
                raise Truncated("closed before the end of the answer") from None
            raise
        self._reading = None
        return data

    def take(self) -> bytes:
        return b""

    async def pump(self, take: Take, drained: Callable[[], Awaitable[None]]) -> None:
        while data := await self.read():
            if not take(data):
                await drained()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._reading is not None:
                self._reading.cancel()
            closing = asyncio.ensure_future(self._response.aclose())
            self._background.add(closing)
            closing.add_done_callback(self._background.discard)

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                data = await anext(self._body, b"")
        except TimeoutError:
            raise IdleTimeout(f"no byte of the answer came for {self._idle:g} s") from None
        except httpx2.TransportError as error:
            raise Truncated(f"the answer broke off: {error}") from error
        self._complete = not data
        return data


class HttpxClient:
    """An UpstreamClient, for one event loop."""

    def __init__(self, idle_keepalive: float = 4.0) -> None:
        self._idle_keepalive = idle_keepalive
        self._transports: dict[tuple[Target, bool], httpx2.AsyncHTTPTransport] = {}
        self._retired: list[httpx2.AsyncHTTPTransport] = []
        self._background: set[asyncio.Task[None]] = set()

    async def open(
        self, target: Target, method: str, path: bytes, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> HttpxResponse:
        """See UpstreamClient."""
        attempt = _Attempt(target, method, path, headers, body, timeouts)
        try:
            response = await attempt.send(self._transport(target, keep_alive=True))
        except ConnectionLost:
            if not attempt.reused:
                raise
            response = await attempt.send(self._transport(target, keep_alive=False))
        return HttpxResponse(response, timeouts.idle, self._background)

    def cut(self, target: Target) -> None:
        for keep_alive in (True, False):
            transport = self._transports.pop((target, keep_alive), None)
            if transport is not None:
                closing = asyncio.ensure_future(transport.aclose())
                self._background.add(closing)
                closing.add_done_callback(self._background.discard)

    def retire(self, target: Target) -> None:
        """Idle connections close after `idle_keepalive` here."""
        kept = [self._transports.pop((target, keep_alive), None) for keep_alive in (True, False)]
        self._retired += [transport for transport in kept if transport is not None]

    async def aclose(self) -> None:
        for transport in [*self._transports.values(), *self._retired]:
            await transport.aclose()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _transport(self, target: Target, keep_alive: bool) -> httpx2.AsyncHTTPTransport:
        """One for each target, since unix paths and TLS contexts are a transport's; another that never reuses."""
        transport = self._transports.get((target, keep_alive))
        if transport is None:
            transport = self._transports[target, keep_alive] = httpx2.AsyncHTTPTransport(
                verify=target.tls if target.tls is not None else False,
                trust_env=False,
                uds=target.unix_path,
                limits=httpx2.Limits(
                    max_connections=None,
                    max_keepalive_connections=None if keep_alive else 0,
                    keepalive_expiry=self._idle_keepalive,
                ),
            )
        return transport


class _Attempt:
    """One request, and how far httpx2 has got with it: its errors alone do not say."""

    def __init__(
        self, target: Target, method: str, path: bytes, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> None:
        self.reused = True
        self._target = target
        self._method = method
        self._path = target.prefix + path
        self._headers = [(b"Host", target.host_header), *headers]
        if body or method not in ("GET", "HEAD"):
            self._headers.append((b"Content-Length", b"%d" % len(body)))
        self._body = body
        self._timeouts = timeouts
        self._connected = False
        self._first_byte = asyncio.timeout(None)

    async def send(self, transport: httpx2.AsyncHTTPTransport) -> httpx2.Response:
        self._first_byte = asyncio.timeout(None)
        self._connected = False
        scheme = "http" if self._target.tls is None else "https"
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        request = httpx2.Request(
            self._method,
            f"{scheme}://{host}:{self._target.port}/",
            headers=self._headers,
            content=self._body,
            extensions={
                "target": self._path,  # as it is, where a URL would be normalised
                "timeout": {"connect": self._timeouts.connect},
                "trace": self._trace,
                **({"sni_hostname": self._target.server_name} if self._target.server_name else {}),
            },
        )
        try:
            async with self._first_byte:
                response = await transport.handle_async_request(request)
        except TimeoutError:
            raise FirstByteTimeout("the head of the answer did not come in time") from None
        except httpx2.LocalProtocolError as error:
            raise ValueError(f"not a valid request: {error}") from error
        except httpx2.TransportError as error:
            raise self._mapped(error) from error
        if response.status_code == 101:
            await response.aclose()
            raise ProtocolViolation("unexpected interim answer 101")
        return response

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.started", "connection.connect_unix_socket.started"):
            self.reused = False
        elif event == "http11.send_request_headers.started":
            self._connected = True
            self._first_byte.reschedule(asyncio.get_running_loop().time() + self._timeouts.first_byte)

    def _mapped(self, error: httpx2.TransportError) -> UpstreamError:
        where = self._target.unix_path or self._target.host_header.decode()
        if isinstance(error, httpx2.ConnectTimeout):
            return ConnectTimeout(f"no connection to {where} within {self._timeouts.connect:g} s")
        if not self._connected:
            return ConnectFailed(f"cannot connect to {where}: {error}")
        if isinstance(error, httpx2.RemoteProtocolError) and "disconnected without" not in str(error):
            return ProtocolViolation(f"not a valid HTTP answer: {error}")
        return ConnectionLost("the connection ended before the head of the answer")
