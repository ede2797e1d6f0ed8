"""What the gateway needs of an HTTP client: open a request, read what comes, close.

Two implementations keep this contract and pass the same tests (tests/upstream/): `native.NativeClient`, the default on
the data path, and `httpx_client.HttpxClient`, the reference. Both raise only errors of core/errors.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

Headers = Sequence[tuple[bytes, bytes]]
Take = Callable[[bytes], bool]


class Target(NamedTuple):
    """Where an engine listens: TCP, TLS over TCP, or a unix socket. Build it with `Target.parse`.

    A tuple, as the client looks up its pool by it for each request, and a tuple's hash is made in C.
    """

    host: str
    port: int
    host_header: bytes
    prefix: bytes = b""  # path that precedes every request path, without a trailing slash
    unix_path: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # over TLS, what the certificate must be for and SNI says; None: the host

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> Target:
        """From `http://host:port[/prefix]`, `https://…` (`tls` defaults to a verifying context) or `unix:/path`.

        Raises ValueError that says what is wrong with the URL.
        """
        if url.startswith("unix:"):
            path = "/" + url.removeprefix("unix:").lstrip("/")
            if path == "/":
                raise ValueError("a unix URL needs an absolute path, as in unix:/run/vllm.sock")
            return cls(host="localhost", port=0, host_header=b"localhost", unix_path=path)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"the URL must start with http://, https:// or unix:, not {url!r}")
        if not parts.hostname:
            raise ValueError(f"the URL has no host: {url!r}")
        if parts.username or parts.password:
            raise ValueError("credentials do not belong in the URL: use api_key")
        if parts.query or parts.fragment:
            raise ValueError("the URL must not have a query or a fragment")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        default_port = port == (443 if secure else 80)
        return cls(
            host=parts.hostname,
            port=port,
            host_header=(name if default_port else f"{name}:{port}").encode("idna" if not name.isascii() else "ascii"),
            prefix=parts.path.rstrip("/").encode("ascii", "strict"),
            tls=(tls or ssl.create_default_context()) if secure else None,
            server_name=server_name if secure else None,
        )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. There is no total: a stream may run as long as bytes keep coming.

    `first_byte` runs from the sending of the request to the end of the answer's head; `idle` is the longest wait of one
    `read()`, so time in which nobody reads does not count against the engine.
    """

    connect: float = 2.0
    first_byte: float = 300.0
    idle: float = 300.0


class UpstreamResponse(Protocol):
    """An answer whose head has come. 1xx heads are skipped; trailers are dropped."""

    status: int
    headers: list[tuple[bytes, bytes]]  # names in lower case, in the engine's order

    @property
    def ended(self) -> bool:
        """The body has ended well and all of it was read, if that is known already; the next read() then gives b""."""
        ...

    async def read(self) -> bytes:
        """Body bytes as soon as there are any, unframed but otherwise as they came; b"" once the body has ended well.

        One reader at a time; cancelling it loses nothing. While nobody reads, the engine is held back (bounded
        buffering).

        Raises Truncated or IdleTimeout; what came before the break is given first.
        """
        ...

    def take(self) -> bytes:
        """What read() would give at once; b"" if it would have to wait, or the body has ended."""
        ...

    async def pump(self, take: Take, drained: Callable[[], Awaitable[None]]) -> None:
        """Give the body to `take` piece by piece until it has ended well; the same errors as `read`.

        After `take` has returned False, nothing more is given to it until `drained()` returns. `take` may be called
        straight from the event loop: it must not block, and must not raise.
        """
        ...

    def close(self) -> None:
        """Done with it, at any time, any number of times. Before the end of the body this drops the connection at
        once, which is how an engine learns that it should stop, and a waiting `read()` raises Truncated; after it, the
        connection may be reused. Every response must be closed: an open one keeps its connection."""
        ...


class UpstreamClient(Protocol):
    async def open(
        self, target: Target, method: str, path: bytes, headers: Headers, body: bytes, timeouts: Timeouts
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its answer.

        `headers` must not contain Host, Content-Length or hop-by-hop fields: the client sets its own. `path` includes
        the query. A reused connection that ends before any byte of an answer is replaced by a fresh one, once.
        Cancelling drops the connection.

        Raises ConnectFailed, ConnectTimeout, ConnectionLost, FirstByteTimeout, ProtocolViolation; OutOfResources when
        this machine, not the engine, is to blame; ValueError when a header or the path holds a CR, LF or NUL.
        """
        ...

    def cut(self, target: Target) -> None:
        """Close every connection to `target`, in use or idle: what is in flight there ends as if the engine had gone
        away. The target may be used again."""
        ...

    def retire(self, target: Target) -> None:
        """There will be no more requests to `target`: its idle connections close, those in use once they are done."""
        ...

    async def aclose(self) -> None:
        """Close every connection, in use or idle."""
        ...
