"""The data port's ASGI application: paths to handlers. Plain ASGI: a framework costs more than the whole proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from llmgate.core.errors import LlmgateError, MethodNotAllowed, RouteNotFound
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Kind
from llmgate.gateway.asgi import Receive, Scope, Send, respond, respond_error, respond_json
from llmgate.gateway.client import AsgiClient, Client, ClientGone
from llmgate.gateway.cors import Cors, with_origins
from llmgate.gateway.protocol import Serve
from llmgate.gateway.proxy import Proxy
from llmgate.telemetry.metrics import Metrics
from llmgate.wire.headers import find
from llmgate.wire.openai import model_list

INFERENCE = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETION,
    "/v1/embeddings": Kind.EMBEDDING,
}


class App:
    """`draining` is set when the process is about to stop: /ready then says so to whoever balances in front."""

    direct: Mapping[bytes, Serve]
    refuse: Callable[[Client, LlmgateError], Awaitable[None]]

    def __init__(
        self,
        scheduler: Scheduler,
        proxy: Proxy,
        metrics: Metrics,
        *,
        body_limit: int,
        clock: Callable[[], float],
        started_at: int,
    ) -> None:
        self.draining = False
        self.body_limit = body_limit
        self.refuse = proxy.refuse
        self.direct = {path.encode(): partial(proxy.serve, kind) for path, kind in INFERENCE.items()}
        self._scheduler = scheduler
        self._proxy = proxy
        self._metrics = metrics
        self._clock = clock
        self._started_at = started_at  # unix time, the `created` of /v1/models
        self._pages = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
            "/v1/models": self._models,
        }
        self.cors: Cors | None = None
        self._without_cors = self.direct, self.refuse

    def allow_origins(self, cors: Cors | None) -> None:
        """From the next request on; None: pages of no other origin."""
        self.cors = cors
        self.direct, self.refuse = self._without_cors
        if cors is not None:
            self.direct = {path: with_origins(cors, serve) for path, serve in self.direct.items()}
            self.refuse = with_origins(cors, self.refuse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.cors is not None:
            granted = self.cors.preflight(scope["headers"]) if scope["method"] == "OPTIONS" else None
            if granted is not None:
                await send({"type": "http.response.start", "status": 204, "headers": granted})
                await send({"type": "http.response.body"})
                return
            send = self.cors.adding(scope["headers"], send)
        path = scope["path"]
        kind = INFERENCE.get(path)
        if kind is not None:
            if scope["method"] == "POST":
                await self._infer(kind, AsgiClient(scope, receive, send))
            else:
                error = MethodNotAllowed(f"{path} takes POST, not {scope['method'][:20]}.")
                await respond_error(send, error, [(b"allow", b"POST")])
            return
        page = self._pages.get(path)
        if page is None:
            await respond_error(send, RouteNotFound("Unknown request URL; see the list of routes in the docs."), [])
        elif scope["method"] in ("GET", "HEAD"):
            await page(scope, send)
        else:
            error = MethodNotAllowed(f"{path} takes GET, not {scope['method'][:20]}.")
            await respond_error(send, error, [(b"allow", b"GET, HEAD")])

    async def _infer(self, kind: Kind, client: AsgiClient) -> None:
        try:
            await client.read(self.body_limit)
        except ClientGone:
            return
        except LlmgateError as error:
            await self._proxy.refuse(client, error)
            return
        async with client:
            await self._proxy.serve(kind, client)

    async def _health(self, scope: Scope, send: Send) -> None:
        await respond_json(send, 200, b'{"status":"ok"}')

    async def _ready(self, scope: Scope, send: Send) -> None:
        pool = self._scheduler.pool
        ready = not self.draining and pool.any_ready(self._clock())
        state = "draining" if self.draining else "ready" if ready else "no ready endpoint"
        await respond_json(send, 200 if ready else 503, msgspec.json.encode({"status": state}))

    async def _render_metrics(self, scope: Scope, send: Send) -> None:
        accept = find(scope["headers"], b"accept")
        page, content_type = self._metrics.render(accept.decode("latin-1") if accept else None)
        await respond(send, 200, page, [(b"content-type", content_type.encode())])

    async def _models(self, scope: Scope, send: Send) -> None:
        pool = self._scheduler.pool
        names = pool.models
        aliases = [alias for alias, model in pool.aliases.items() if model in names and alias not in names]
        await respond_json(send, 200, model_list([*names, *aliases], self._started_at))
