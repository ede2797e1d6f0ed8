"""The data port's ASGI application: paths to handlers. Plain ASGI: a framework costs more than the whole proxy."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from llmgate.core.errors import LlmgateError, MethodNotAllowed, ModelNotFound, RouteNotFound
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Kind
from llmgate.gateway.asgi import Receive, Scope, Send, respond, respond_error, respond_json
from llmgate.gateway.client import AsgiClient, Client, ClientGone
from llmgate.gateway.cors import Cors, with_origins
from llmgate.gateway.gate import Gate
from llmgate.gateway.intake import UNKNOWN_URL
from llmgate.gateway.protocol import Serve
from llmgate.gateway.proxy import Proxy
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.scrape import scrape
from llmgate.wire.headers import find
from llmgate.wire.kinds import KINDS, ROUTES
from llmgate.wire.openai import model_card, model_list

OTHER = re.compile(rb"/v1(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
"""What may be a path of an engine that the gateway does not know: no escapes, no empty or dotted segments."""

WITHHELD = frozenset({b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter"})
"""Operators' paths of engines: no client reaches them through the gateway."""

MODELS = "/v1/models"


class App:
    """`draining` is set when the process is about to stop: /ready then says so to whoever balances in front.
    `shows_metrics`: here, too, not on the admin port alone."""

    direct: Mapping[bytes, Serve]
    refuse: Callable[[Client, LlmgateError], Awaitable[None]]

    def __init__(
        self,
        scheduler: Scheduler,
        proxy: Proxy,
        metrics: Metrics,
        gate: Gate,
        *,
        body_limit: int,
        clock: Callable[[], float],
        started_at: int,
    ) -> None:
        self.draining = False
        self.shows_metrics = True
        self.gate = gate
        self.body_limit = body_limit
        self.refuse = proxy.refuse
        self.direct = {path.encode(): partial(proxy.serve, kind) for path, kind in ROUTES.items()}
        self._scheduler = scheduler
        self._proxy = proxy
        self._metrics = metrics
        self._clock = clock
        self._started_at = started_at  # unix time, the `created` of /v1/models
        self._pages = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._render_metrics,
            MODELS: self._models,
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
        page = self._pages.get(path) or (self._model if path.startswith(f"{MODELS}/") else None)
        kind = ROUTES.get(path)
        if kind is None and page is None and scope["method"] == "POST" and _is_other(scope["raw_path"]):
            kind = Kind.OTHER
        if kind is not None:
            if scope["method"] == "POST":
                await self._infer(kind, AsgiClient(scope, receive, send))
            else:
                error = MethodNotAllowed(f"{path} takes POST, not {scope['method'][:20]}.")
                await respond_error(send, error, [(b"allow", b"POST")], KINDS[kind].dialect)
            return
        if page is None:
            await respond_error(send, RouteNotFound(UNKNOWN_URL), [])
        elif scope["method"] in ("GET", "HEAD"):
            await page(scope, send)
        else:
            error = MethodNotAllowed(f"{path} takes GET, not {scope['method'][:20]}.")
            await respond_error(send, error, [(b"allow", b"GET, HEAD")])

    async def _infer(self, kind: Kind, client: AsgiClient) -> None:
        try:
            try:
                await client.read(self.body_limit, self.gate)
            except ClientGone:
                return
            except LlmgateError as error:
                await self._proxy.refuse(client, error)
                return
            async with client:
                await self._proxy.serve(kind, client)
        finally:
            self.gate.buffered -= client.received

    async def _health(self, scope: Scope, send: Send) -> None:
        await respond_json(send, 200, b'{"status":"ok"}')

    async def _ready(self, scope: Scope, send: Send) -> None:
        pool = self._scheduler.pool
        ready = not self.draining and pool.any_ready(self._clock())
        state = "draining" if self.draining else "ready" if ready else "no ready endpoint"
        await respond_json(send, 200 if ready else 503, msgspec.json.encode({"status": state}))

    async def _render_metrics(self, scope: Scope, send: Send) -> None:
        if not self.shows_metrics:
            await respond_error(send, RouteNotFound(UNKNOWN_URL), [])
            return
        accept = find(scope["headers"], b"accept")
        page, content_type = await scrape(self._metrics, accept.decode("latin-1") if accept else None)
        await respond(send, 200, page, [(b"content-type", content_type.encode())])

    async def _models(self, scope: Scope, send: Send) -> None:
        await respond_json(send, 200, model_list(self._cards().values()))

    async def _model(self, scope: Scope, send: Send) -> None:
        name = scope["path"].removeprefix(f"{MODELS}/")
        card = self._cards().get(name)
        if card is None:
            await respond_error(send, ModelNotFound(name), [])
        else:
            await respond_json(send, 200, msgspec.json.encode(card))

    def _cards(self) -> dict[str, dict[str, Any]]:
        """By name: the models of the pool, LoRA adapters with what they adapt, aliases with what they stand for."""
        pool = self._scheduler.pool
        parents = {name: parent for endpoint in pool for name, parent in endpoint.adapters.items()}
        cards: dict[str, dict[str, Any]] = {}
        for name in pool.models:
            more = {"parent": parents[name]} if name in parents else {}
            cards[name] = model_card(name, self._started_at, **more)
        for alias, model in pool.aliases.items():
            if model in cards and alias not in cards:
                cards[alias] = model_card(alias, self._started_at, root=model)
        return cards


def _is_other(path: bytes) -> bool:
    return OTHER.fullmatch(path) is not None and path not in WITHHELD
