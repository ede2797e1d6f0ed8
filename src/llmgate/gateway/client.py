"""The client's side of a request, as the proxy sees it, and its form on any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from llmgate.core.errors import BodyTooLarge, LlmgateError
from llmgate.gateway.asgi import Message, Receive, Scope, Send
from llmgate.wire.headers import Header
from llmgate.wire.openai import error_body


class Client(Protocol):
    """One request whose body has been read. `GatewayProtocol` offers it without ASGI in between, for speed."""

    headers: list[Header]  # of the request, names in lower case
    target: bytes  # path and query as they came
    body: bytes
    gone: bool  # the client has left; what is sent is dropped
    on_gone: Callable[[], object] | None
    """Called once, the moment the client leaves before its answer is complete."""

    async def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> None:
        """The head and the first bytes of the body. Waits while the client does not take what was sent before."""
        ...

    async def write(self, body: bytes, more: bool) -> None:
        """More of the body; `more` is False for the last piece, which may be empty."""
        ...

    def write_now(self, body: bytes) -> bool:
        """More of the body, without waiting. False: it does not take more for now, await `drained` first."""
        ...

    async def drained(self) -> None: ...


async def respond_error(client: Client, error: LlmgateError, headers: list[Header]) -> None:
    """OpenAI's error envelope."""
    body = error_body(error)
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    if error.retry_after is not None:
        head.append((b"retry-after", b"%d" % error.retry_after))
    await client.respond(error.status, head, body, False)


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class AsgiClient:
    """A Client on a plain ASGI server. Use it as `async with`: a task watches for the client's leaving."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: list[Header] = scope["headers"]
        query = scope["query_string"]
        self.target: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        self.body = b""
        self.gone = False
        self.on_gone: Callable[[], object] | None = None
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []

    async def read(self, limit: int) -> None:
        """Read the body. Raises BodyTooLarge, at best before any of it is read, and ClientGone."""
        for name, value in self.headers:
            if name == b"content-length" and int(value) > limit:
                raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            more = message.get("more_body", False)
            if size > limit:
                raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
        self.body = b"".join(pieces)

    async def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self.write(body, more)

    async def write(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def write_now(self, body: bytes) -> bool:
        self._unsent.append(body)  # ASGI's send cannot be called without waiting
        return False

    async def drained(self) -> None:
        pieces, self._unsent = self._unsent, []
        for piece in pieces:
            await self.write(piece, True)

    async def __aenter__(self) -> AsgiClient:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()
