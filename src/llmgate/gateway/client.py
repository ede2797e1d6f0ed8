"""The client's side of a request, as the proxy sees it, and its form on any ASGI server."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from llmgate.core.errors import BodyTooLarge, LlmgateError
from llmgate.gateway.asgi import Message, Receive, Scope, Send
from llmgate.gateway.gate import Gate
from llmgate.wire.headers import Header, find
from llmgate.wire.kinds import OPENAI, Dialect


class Client(Protocol):
    """One request whose body has been read. `GatewayProtocol` offers it without ASGI in between, for speed.

    What is sent goes out without waiting; False says that the client does not take more for now: `await drained()`
    before sending more, and at the end.
    """

    headers: list[Header]  # of the request, names in lower case
    target: bytes  # path and query as they came
    body: bytes

    @property
    def gone(self) -> bool:
        """The client has left before its answer was complete: the task that serves it is cancelled at once, and what is
        sent is dropped."""
        ...

    @property
    def sent(self) -> int:
        """Bytes of the answer's body so far."""
        ...

    @property
    def peer(self) -> str:
        """Address of the other end of the connection; empty if it has none."""
        ...

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        """The head and the first bytes of the body."""
        ...

    def write(self, body: bytes, more: bool) -> bool:
        """More of the body; `more` is False for the last piece, which may be empty."""
        ...

    async def drained(self) -> None: ...


class Around:
    """A Client that hands everything on to another: for those that do a little more."""

    def __init__(self, client: Client) -> None:
        self.headers = client.headers
        self.target = client.target
        self.body = client.body
        self._client = client

    @property
    def gone(self) -> bool:
        return self._client.gone

    @property
    def sent(self) -> int:
        return self._client.sent

    @property
    def peer(self) -> str:
        return self._client.peer

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        return self._client.respond(status, headers, body, more)

    def write(self, body: bytes, more: bool) -> bool:
        return self._client.write(body, more)

    async def drained(self) -> None:
        await self._client.drained()


async def respond_error(client: Client, error: LlmgateError, headers: list[Header], dialect: Dialect = OPENAI) -> None:
    """An error of the gateway's own, as clients of this kind of request expect it."""
    body = dialect.body(error)
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    if error.retry_after is not None:
        head.append((b"retry-after", b"%d" % error.retry_after))
    client.respond(error.status, head, body, False)
    await client.drained()


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
        self.sent = 0
        self.received = 0  # bytes of the body, as `gate.buffered` has them
        self.peer: str = (scope.get("client") or ("",))[0]
        self._receive = receive
        self._send = send
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._unsent: list[Message] = []

    async def read(self, limit: int, gate: Gate) -> None:
        """Read the body, and put it on `gate.buffered`. Raises BodyTooLarge and Overloaded, at best before any of it is
        read, and ClientGone."""
        announced = int(find(self.headers, b"content-length") or 0)
        if announced > limit:
            raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
        gate.check(announced)
        pieces: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            pieces.append(message.get("body", b""))
            self.received += len(pieces[-1])
            gate.buffered += len(pieces[-1])
            more = message.get("more_body", False)
            if self.received > limit:
                raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
            gate.check(0)
        self.body = b"".join(pieces)

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        self._unsent.append({"type": "http.response.start", "status": status, "headers": headers})
        return self.write(body, more)

    def write(self, body: bytes, more: bool) -> bool:
        self.sent += len(body)
        self._unsent.append({"type": "http.response.body", "body": body, "more_body": more})
        return False  # ASGI's send cannot be called without waiting

    async def drained(self) -> None:
        while self._unsent:
            await self._send(self._unsent[0])
            del self._unsent[0]  # only now: a cancelled send is made up for by the next call

    async def __aenter__(self) -> AsgiClient:
        self._task = asyncio.current_task()
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
        if self._task is not None:
            self._task.cancel()
