"""ASGI's types, and the two things every plain handler does: send a whole answer, send an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmgate.core.errors import LlmgateError
from llmgate.wire.headers import Header
from llmgate.wire.kinds import OPENAI, Dialect

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


async def respond(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, body: bytes, headers: list[Header] | None = None) -> None:
    await respond(send, status, body, [(b"content-type", b"application/json"), *(headers or [])])


async def respond_error(send: Send, error: LlmgateError, headers: list[Header], dialect: Dialect = OPENAI) -> None:
    """An error of the gateway's own, as clients of this kind of request expect it."""
    if error.retry_after is not None:
        headers = [*headers, (b"retry-after", b"%d" % error.retry_after)]
    await respond_json(send, error.status, dialect.body(error), headers)
