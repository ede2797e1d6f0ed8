"""uvicorn, as the gateway uses it: one listening socket, no signal handling of its own, a drain with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmgate.gateway.asgi import ASGIApp, Receive, Scope, Send

KEEP_ALIVE_SECONDS = 75
"""How long an idle client connection is kept: nginx's keepalive_timeout."""
BACKLOG = 4096
HANDSHAKE_SECONDS = 10.0
"""How long a client has for the TLS handshake: as long as for its headers. Only then does its connection count."""
LAST_WORDS_SECONDS = 1.0
"""How long clients that are cut off at the deadline have to take the error that says so."""


class PortInUse(OSError):
    pass


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket. One that is `shared`, with other processes of this user that bind it so, listens only
    when it is served: until then the others get all connections. Raises PortInUse, or OSError with a sentence in it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        if not shared:
            listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == 98:  # EADDRINUSE
            raise PortInUse(f"{host}:{port} is in use by another program: choose another port") from None
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """Serves one application on one socket until `stop`."""

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        *,
        drain: float,
        protocol: type[HttpToolsProtocol] = HttpToolsProtocol,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain,  # type: ignore[arg-type]  # a float will do: it goes to asyncio.wait_for
                backlog=BACKLOG,
            )
        )
        self._listener = listener
        self._tls = tls
        self.servers: list[asyncio.Server] = []

    async def use_tls(self, context: ssl.SSLContext | None) -> None:
        """For connections from now on; those that there are, or are being made, stay what they are. None: no TLS.

        Raises OSError, and has changed nothing then.
        """
        if context is self._tls:
            return
        if self.servers:
            listener = self._listener.dup()  # of the same queue: no connection is lost between the two
            try:
                server = await self._listen(listener, context)
            except BaseException:
                listener.close()
                raise
            before, self.servers, self._listener = self.servers, [server], listener
            for each in before:
                each.close()
        self._tls = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # for uvicorn a server's TLS is for life
        self.servers = [await self._listen(self._listener, self._tls)]

    async def _listen(self, listener: socket.socket, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=listener,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS,
        )

    async def run_until_stopped(self) -> None:
        """Returns when everything in flight has ended, or was cancelled at the deadline and has then ended."""
        await self.serve(sockets=[self._listener])
        for task in self.server_state.tasks:
            if not task.cancelling():  # uvicorn cancels at its deadline, not when it is told to hurry
                task.cancel()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # clients that take nothing, or never sent the rest of their request
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Connections that wait to be accepted are taken first: closing the listener would reset them."""
        waiting = list(_accept_all(self._listener))
        for server in self.servers:
            server.close()
        await asyncio.gather(*map(self._take_in, waiting))
        await super().shutdown(sockets)

    async def _take_in(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it has gone already, or does not speak TLS
            await loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else LAST_WORDS_SECONDS,
            )

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def announce_end(self) -> None:
        """From now on each answer is its connection's last, and says so: clients go elsewhere before the end."""
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]

    def stop(self) -> None:
        self.should_exit = True

    def stop_now(self) -> None:
        """Do not wait for what is in flight."""
        self.should_exit = True
        self.config.timeout_graceful_shutdown = 0
        self.force_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # the runtime handles them, for two servers at once


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):  # none is waiting, or no file descriptor is left
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


KNOWN_ENDINGS = frozenset(
    {
        "ASGI callable returned without completing response.",  # the engine broke off: no error of the application
        "Cancel %s running task(s), timeout graceful shutdown exceeded",  # the runtime says it, with what it means
    }
)


class _KnownEndings(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in KNOWN_ENDINGS


class _FailedAccepts(logging.Filter):
    """asyncio's own loop says it for each of the backlog's 4,096 places; Pulse (telemetry/pulse.py) does once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("socket.accept() out of system resource")


def quiet_uvicorn() -> None:
    log = logging.getLogger("uvicorn.error")
    log.setLevel(logging.WARNING)
    log.addFilter(_KnownEndings())
    logging.getLogger("asyncio").addFilter(_FailedAccepts())


class Switch:
    """An ASGI application that another can be put in the place of, also for connections that are open."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
