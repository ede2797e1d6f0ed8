"""Answers of the admin port that another application gives in place of FastAPI."""

from __future__ import annotations

from starlette.responses import Response

from llmgate.gateway.asgi import ASGIApp, Receive, Scope, Send

CHAT = "/v1/chat/completions"

PASSED = frozenset({b"content-type", b"content-length", b"x-session-id", b"x-request-id"})
OWN = b"x-llmgate-"
"""Headers that go on to the data port: not those of the operator's, whose token must reach no engine."""


class Handed(Response):
    """What `app` answers."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class Chat(Handed):
    """What `data`, the data port's application, answers to the same request as a chat."""

    def __init__(self, data: ASGIApp) -> None:
        super().__init__(data)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name in PASSED or name.startswith(OWN)]
        asked = {"path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "headers": headers}
        await super().__call__({**scope, **asked}, receive, send)
