"""Who changed what: a record for each request to the admin port that could change something, whatever came of it."""

from __future__ import annotations

import logging

from llmgate.gateway.asgi import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("llmgate.audit")

LONGEST_PATH = 300
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Audit:
    """ASGI middleware. Bodies and tokens are not told: they may hold an engine's key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self._app(scope, receive, send)
            return
        status = 500  # if it fails before it answers

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            client = scope.get("client")
            address = client[0] if client else "?"
            path = scope["path"][:LONGEST_PATH]
            logger.info(
                "%s %s from %s: %d",
                scope["method"],
                path,
                address,
                status,
                extra={"fields": {"method": scope["method"], "path": path, "client": address, "status": status}},
            )
