"""Who may talk to the admin port: two defences against web pages that the operator happens to have open, and a token.

The token travels in a header that no page of another site can know, so there are no cookies and nothing to forge.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
"""Of a request: the description of an endpoint is all that is ever sent here."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}
"""On every answer: no guessed types, no page of ours in a frame of another's."""

BEARER = HTTPBearer(auto_error=False, description="admin.token of the configuration")


def error_response(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """OpenAI's error envelope, as on the data port."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status, headers)


class BrowserGuard:
    """Refuses a Host that is not ours (DNS rebinding: a page whose name was made to point here) and requests from other
    origins that change something.

    Our hosts are localhost, every IP literal (a name can be pointed anywhere, a number cannot) and `hosts`; None takes
    any Host.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> JSONResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return error_response(421, "This server is not reached by that host name.", "unknown_host")
        if method not in SAFE_METHODS and not _same_origin(headers, hosts[0]):
            return error_response(403, "Requests from other origins may not change anything.", "cross_origin")
        return None

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or _is_ip(name)


class BodyLimit:
    """Reads the body, which is small, before anything else is done; FastAPI would read one of any size, and before it
    asks who sends it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                refusal = error_response(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", "body_too_large")
                refusal.headers["connection"] = "close"
                await refusal(scope, receive, send)
                return
        given = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def receive_again() -> Message:
            return next(given, None) or await receive()

        await self._app(scope, receive_again, send)


def _same_origin(headers: Headers, host: str) -> bool:
    """What the browser says of the page that sends this; a client that is no browser says nothing, and may."""
    site = headers.get("sec-fetch-site")
    if site is not None:  # no script can set it, and it holds behind a proxy that rewrites Host
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def require(token: str) -> Callable[..., Awaitable[None]]:
    """A FastAPI dependency that lets only `Authorization: Bearer <token>` pass; an empty token lets everyone."""
    if not token:

        async def everyone() -> None:
            pass

        return everyone

    wanted = sha256(token.encode()).digest()

    async def holder(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        # hashes have one length, so the time tells nothing of the token's either
        if given is None or not hmac.compare_digest(sha256(given.credentials.encode("latin-1")).digest(), wanted):
            raise HTTPException(401, "The admin token is missing or wrong.", {"www-authenticate": "Bearer"})

    return holder
