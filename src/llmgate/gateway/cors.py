"""Pages of other origins may call the data port, where the configuration says so
(https://fetch.spec.whatwg.org/#http-cors-protocol).

No cookies are in play and credentials are never allowed for, so whatever headers a page asks to send are granted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable

from llmgate.gateway.asgi import Message, Send
from llmgate.gateway.protocol import DirectClient
from llmgate.wire.headers import Header, find

METHODS = b"GET, POST, OPTIONS"


class Cors:
    """`origins` as browsers write them, `https://chat.example.com`; `*` for all. `max_age` is in seconds."""

    def __init__(self, origins: Collection[str], max_age: int) -> None:
        self._all = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._max_age = b"%d" % max_age

    def headers(self, request: Iterable[Header]) -> list[Header]:
        """What goes with every answer to this request."""
        exposed = (b"access-control-expose-headers", b"*")
        if self._all:
            return [(b"access-control-allow-origin", b"*"), exposed]
        origin = find(request, b"origin")
        if origin in self._origins and origin is not None:
            return [(b"access-control-allow-origin", origin), exposed, (b"vary", b"origin")]
        return [(b"vary", b"origin")]  # a cache must not give this answer to an origin that is allowed

    def preflight(self, request: Iterable[Header]) -> list[Header] | None:
        """The headers of the answer to a browser that asks beforehand; None if this is not such a question."""
        request = list(request)
        if find(request, b"origin") is None or find(request, b"access-control-request-method") is None:
            return None
        answer = [header for header in self.headers(request) if header[0] != b"access-control-expose-headers"]
        if answer[0][0] == b"access-control-allow-origin":
            answer += [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", self._max_age)]
            wanted = find(request, b"access-control-request-headers")
            if wanted:
                answer.append((b"access-control-allow-headers", wanted))
        return answer

    def adding(self, request: Iterable[Header], send: Send) -> Send:
        """`send` with the headers in every answer."""
        extra = self.headers(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        return send_with_headers


def with_origins(cors: Cors, serve: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A direct route whose answers have the headers."""

    async def dressed(client: DirectClient, *rest: object) -> None:
        client.extra = cors.headers(client.headers)
        await serve(client, *rest)

    return dressed
