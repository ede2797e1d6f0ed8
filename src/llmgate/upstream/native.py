"""The default client: HTTP/1.1 on httptools and asyncio.Protocol, with a keep-alive pool for each target.

Ours because general clients cost several times as much per request and per chunk: this one has no redirects, cookies,
decoding or HTTP/2, only what a proxy needs.
"""

from __future__ import annotations

import asyncio
import errno
from weakref import WeakKeyDictionary

from llmgate.core.errors import ConnectFailed, ConnectionLost, ConnectTimeout, OutOfResources
from llmgate.upstream.base import Headers, Target, Timeouts
from llmgate.upstream.connection import Connection
from llmgate.upstream.pool import Pool, PoolStats
from llmgate.upstream.reasons import AFTER_HANDSHAKE, IN_HANDSHAKE, reason_of
from llmgate.upstream.response import NativeResponse

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class NativeClient:
    """An UpstreamClient, for one event loop. It opens as many connections as it is asked for.

    `idle_keepalive`: seconds after which an idle connection is dropped. The default stays below the 5 s after which
    uvicorn (`--timeout-keep-alive`) and llama.cpp's server close theirs, so that a request seldom meets a closing one.
    """

    def __init__(self, idle_keepalive: float = 4.0) -> None:
        self._idle_keepalive = idle_keepalive
        self._pools: dict[Target, Pool] = {}
        self._retired: WeakKeyDictionary[Pool, Target] = WeakKeyDictionary()  # kept alive by connections in use
        self._closed = False

    async def open(
        self, target: Target, method: str, path: bytes, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> NativeResponse:
        """See UpstreamClient. `timeouts.first_byte` covers the whole head, so that it cannot be drawn out byte by byte.

        Raises also ValueError when a header or the path holds what would end it (CR, LF, NUL; a space in the path).
        """
        head = request_head(target, method, path, headers, len(body))
        pool = self._pools.get(target)
        if pool is None:
            pool = self._pools[target] = Pool(asyncio.get_running_loop(), self._idle_keepalive)
        connection = pool.take()
        while True:
            reused = connection is not None
            if connection is None:
                connection = await self._connect(target, pool, timeouts.connect)
            response = connection.send(head, body, timeouts.idle, method == "HEAD")
            try:
                await response.head(timeouts.first_byte)
            except BaseException:  # cancelled
                response.close()
                raise
            if response.status:
                return response
            error = response.error
            assert error is not None
            response.close()
            if not (reused and response.silent and isinstance(error, ConnectionLost)):
                if target.tls is not None and response.silent and type(error) is ConnectionLost:
                    raise ConnectionLost(f"{error.message}; {AFTER_HANDSHAKE}") from error
                raise error
            connection = None  # it was closed just before we wrote: once more, and not on another that may be as old

    def cut(self, target: Target) -> None:
        pool = self._pools.pop(target, None)
        if pool is not None:
            pool.close()
        for retired, old in list(self._retired.items()):
            if old._replace(tls=None, server_name=None) == target._replace(tls=None, server_name=None):
                retired.close()

    def retire(self, target: Target) -> None:
        pool = self._pools.pop(target, None)
        if pool is not None:
            pool.retire()
            self._retired[pool] = target

    async def aclose(self) -> None:
        """Close every connection, in use or idle; later calls of `open` raise RuntimeError."""
        self._closed = True
        for pool in [*self._pools.values(), *self._retired]:
            pool.close()
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn of the loop

    def stats(self) -> dict[Target, PoolStats]:
        """The connections of each target that was ever asked for."""
        return {target: pool.stats() for target, pool in self._pools.items()}

    async def _connect(self, target: Target, pool: Pool, timeout: float) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(loop, pool)
        where = target.unix_path or target.host_header.decode()
        try:
            async with asyncio.timeout(timeout):
                if target.unix_path is not None:
                    await loop.create_unix_connection(lambda: connection, target.unix_path)
                else:
                    server_name = None if target.tls is None else target.server_name or target.host
                    await loop.create_connection(
                        lambda: connection, target.host, target.port, ssl=target.tls, server_hostname=server_name
                    )
            if self._closed:
                raise RuntimeError("the client is closed")
        except BaseException as error:
            connection.abort()
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(f"no connection to {where} within {timeout:g} s") from error
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise OutOfResources(f"the gateway cannot open another connection: {reason_of(error)}") from error
            if isinstance(error, ConnectionResetError) and not error.errno and target.tls is not None:
                raise ConnectFailed(f"cannot connect to {where}: {IN_HANDSHAKE}") from error
            if isinstance(error, OSError | UnicodeError):  # UnicodeError: a host name that IDNA refuses
                raise ConnectFailed(f"cannot connect to {where}: {reason_of(error)}") from error
            raise
        if not connection.open:
            raise ConnectionLost("the connection ended before the first byte of the answer")
        return connection


def request_head(target: Target, method: str, path: bytes, headers: Headers, length: int) -> bytes:
    """The request line and headers. Raises ValueError when one of them would break out of its line."""
    lines = [b"Host: " + target.host_header]
    lines += [b": ".join(pair) for pair in headers]
    if length or method not in ("GET", "HEAD"):
        lines.append(b"Content-Length: %d" % length)
    head = b"%b %b%b HTTP/1.1\r\n%b\r\n\r\n" % (method.encode(), target.prefix, path, b"\r\n".join(lines))
    ends = len(lines) + 2
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head or b" " in path:
        raise ValueError("a header or the path holds a CR, LF, NUL or space that does not belong there")
    return head
