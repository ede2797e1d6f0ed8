"""One simulated engine over HTTP: its paths, its states, its start and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from llmgate.engines.engine import Engine
from llmgate.sim.http_engine.alarm import make_alarm
from llmgate.sim.http_engine.body import Body, decode, prompt_ids
from llmgate.sim.http_engine.clock import EngineClock
from llmgate.sim.http_engine.completions import Completions, tokenized
from llmgate.sim.http_engine.errors import NoSuchPath, Refused, failed, not_as_described, queue_full
from llmgate.sim.http_engine.faults import Dice, Faults, changed
from llmgate.sim.http_engine.http import JSON, Connection, Exchange
from llmgate.sim.http_engine.metrics import Metrics
from llmgate.sim.http_engine.metrics_page import CONTENT_TYPE, Adapters, metrics_page
from llmgate.sim.http_engine.models import LoadAdapter, Models, UnloadAdapter
from llmgate.sim.http_engine.service import EngineService
from llmgate.sim.http_engine.settings import VERSION, Settings

if TYPE_CHECKING:
    from llmgate.sim.http_engine.publisher import Publisher

PATIENCE = 100
"""Connections that wait to be accepted: as uvicorn's default of 2048 is cut by net.core.somaxconn on most machines."""

LEAD_S = 100e-6
"""What a wake-up and a step of the model took on the development machine."""

CRASHED = 134  # as a process that was aborted: 128 + SIGABRT


class SimEngine:
    """Make one within a running loop, `start` it, `close` it. `die` ends the process when a crash is asked for."""

    def __init__(self, settings: Settings, die: Callable[[], object] | None = None) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self._die = die or partial(os._exit, CRASHED)
        self._dice = Dice(settings.seed)
        self._faults = Faults()
        self._crash: asyncio.TimerHandle | None = None
        self._ready = settings.startup_s <= 0
        self._starting: asyncio.TimerHandle | None = None
        self._stalled: set[Exchange] = set()
        self._adapters_seen = False
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        profile = settings.profile
        self._models = Models(settings.model, profile.max_model_len, settings.lora)
        self._completions = Completions(settings, self._models)
        self._publisher = _publisher(settings, self._loop)
        self._metrics = Metrics(profile, settings.model, settings.speed)
        self.service = EngineService(
            Engine(profile, cache_events=self._publisher is not None, priority_queue=settings.priority_queue),
            EngineClock(settings.speed),
            self._metrics,
            partial(make_alarm, self._loop),
            tick_s=settings.tick_s,
            lead_s=LEAD_S,
            publish=None if self._publisher is None else self._publisher.publish,
        )
        self._routes: dict[str, dict[str, Callable[[Exchange], None]]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": lambda exchange: _json(exchange, {"version": VERSION})},
            "/load": {"GET": lambda exchange: _json(exchange, {"server_load": self._load})},
            "/metrics": {"GET": self._metrics_page},
            "/kv_event_sources": {"GET": self._kv_event_sources},
            "/v1/models": {"GET": lambda exchange: exchange.respond(200, self._models.listed())},
            "/v1/chat/completions": {"POST": partial(self._complete, chat=True)},
            "/v1/completions": {"POST": partial(self._complete, chat=False)},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/v1/load_lora_adapter": {"POST": self._load_adapter},
            "/v1/unload_lora_adapter": {"POST": self._unload_adapter},
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/sim/faults": {"GET": self._show_faults, "POST": self._change_faults},
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is a free one for 0. Raises OSError."""
        self._server = await self._loop.create_server(
            lambda: Connection(self._handle, self._connections), host, port, backlog=PATIENCE
        )
        if not self._ready:
            self._starting = self._loop.call_later(self.settings.startup_s, self._become_ready)
        self.set_faults(self.settings.faults)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Open requests are cut."""
        if self._server is not None:
            self._server.close()
        for timer in (self._crash, self._starting):
            if timer is not None:
                timer.cancel()
        for connection in tuple(self._connections):
            connection.transport.abort()
        while self._connections:  # noqa: ASYNC110  (the loop tells them in its next round)
            await asyncio.sleep(0)
        self.service.close()
        if self._publisher is not None:
            self._publisher.close()

    def set_faults(self, faults: Faults) -> None:
        if faults.crash:
            self._die()
        if faults.crash_at_s != self._faults.crash_at_s:
            if self._crash is not None:
                self._crash.cancel()
            self._crash = None if faults.crash_at_s is None else self._loop.call_later(faults.crash_at_s, self._die)
        if faults.slowdown != self._faults.slowdown:
            self.service.set_slowdown(faults.slowdown)
        self._faults = faults

    def _handle(self, exchange: Exchange) -> None:
        try:
            methods = self._routes.get(exchange.path)
            if methods is None:
                raise NoSuchPath(404, "Not Found")
            handler = methods.get(exchange.method)
            if handler is None:
                raise NoSuchPath(405, "Method Not Allowed")
            handler(exchange)
        except Refused as refused:
            exchange.respond(refused.status, refused.body)

    # completions

    def _complete(self, exchange: Exchange, *, chat: bool) -> None:
        _check_json(exchange)
        if not self._ready:
            raise _not_ready()
        fate = self._dice.fate(self._faults)
        if fate == "fail":
            raise failed()
        if fate == "reject":
            raise _rejected(self._faults.reject_status)
        job = self._completions.job(exchange, chat=chat, break_after=self._faults.break_after)
        if fate == "stall":
            self._stalled.add(exchange)
            exchange.gone = partial(self._stalled.discard, exchange)
            return
        limit = self.settings.max_num_queued_reqs
        if limit is not None and self.service.open_requests >= limit:
            self._metrics.rejected("max_num_queued_reqs")
            raise queue_full()
        self._adapters_seen = self._adapters_seen or job.lora is not None
        self.service.submit(job, exchange.arrived)

    @property
    def _load(self) -> int:
        return self.service.open_requests + len(self._stalled)

    # what it tells of itself

    def _health(self, exchange: Exchange) -> None:
        """200 also while it sleeps, as vLLM's."""
        exchange.respond(200 if self._ready else 503)

    def _metrics_page(self, exchange: Exchange) -> None:
        adapters = None
        if self._adapters_seen:
            running, waiting = self.service.lora_adapters()
            adapters = Adapters(max(1, len(self._models)), running, waiting)
        page = metrics_page(self._metrics, self.service.gauges(), self.service.sleep_state, adapters)
        exchange.respond(200, page, CONTENT_TYPE)

    def _kv_event_sources(self, exchange: Exchange) -> None:
        config = self.settings.kv_events
        _json(exchange, {} if config is None else {"0": config.source()})

    def _tokenize(self, exchange: Exchange) -> None:
        _check_json(exchange)
        body = decode(exchange.body, Body)
        if body.prompt is not None and not isinstance(body.prompt, str):
            raise not_as_described("Input should be a valid string", "body.prompt")
        if body.prompt is None and body.messages is None:
            raise not_as_described("Field required", "body.prompt")
        ids = prompt_ids(body, self.settings.tokenizer, chat=body.messages is not None)
        _json(exchange, tokenized(self.settings, decode(exchange.body, dict), ids))

    def _detokenize(self, exchange: Exchange) -> None:
        _check_json(exchange)
        wanted = decode(exchange.body, _Detokenize)
        vocabulary = self.settings.tokenizer.vocabulary
        if any(not 0 <= token < vocabulary for token in wanted.tokens):
            raise not_as_described("Token ids are out of vocabulary", "body.tokens")
        _json(exchange, {"prompt": self.settings.tokenizer.decode(wanted.tokens)})

    # what can be done to it

    def _load_adapter(self, exchange: Exchange) -> None:
        _check_json(exchange)
        exchange.respond(200, self._models.load(decode(exchange.body, LoadAdapter)), None)

    def _unload_adapter(self, exchange: Exchange) -> None:
        _check_json(exchange)
        exchange.respond(200, self._models.unload(decode(exchange.body, UnloadAdapter)), None)

    def _sleep(self, exchange: Exchange) -> None:
        query = parse_qs(exchange.query)
        level, mode = query.get("level", ["1"])[-1], query.get("mode", ["abort"])[-1]
        if level not in ("0", "1", "2"):
            raise not_as_described("Input should be 0, 1 or 2", "query.level")
        if mode != "abort":
            raise not_as_described("Input should be 'abort': other modes are not simulated", "query.mode")
        self.service.sleep(int(level))
        _json(exchange, {"status": "sleeping", "level": int(level)})

    def _wake_up(self, exchange: Exchange) -> None:
        self.service.wake()
        _json(exchange, {"status": "awake", "tags": parse_qs(exchange.query).get("tags")})

    def _is_sleeping(self, exchange: Exchange) -> None:
        _json(exchange, {"is_sleeping": self.service.sleep_level is not None})

    def _reset_prefix_cache(self, exchange: Exchange) -> None:
        _json(exchange, {"success": self.service.reset_prefix_cache()})

    def _show_faults(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode(self._faults))

    def _change_faults(self, exchange: Exchange) -> None:
        try:
            faults = changed(self._faults, exchange.body)
        except msgspec.DecodeError as error:
            raise not_as_described(str(error), "body") from None
        self.set_faults(faults)
        self._show_faults(exchange)

    def _become_ready(self) -> None:
        self._ready = True


def _publisher(settings: Settings, loop: asyncio.AbstractEventLoop) -> Publisher | None:
    if settings.kv_events is None:
        return None
    from llmgate.sim.http_engine.publisher import Publisher  # ZeroMQ is loaded where it is used

    return Publisher(settings.kv_events, loop)


class _Detokenize(msgspec.Struct):
    tokens: list[int]


def _json(exchange: Exchange, content: object) -> None:
    exchange.respond(200, msgspec.json.encode(content))


def _check_json(exchange: Exchange) -> None:
    if exchange.header(b"content-type").partition(";")[0].strip().lower() != JSON:
        raise not_as_described("Unsupported Media Type: Only 'application/json' is allowed")


def _rejected(status: int) -> Refused:
    if status == 503:
        return queue_full()
    return Refused(429, "Too Many Requests", "The engine takes no more requests for now. Please try again later.")


def _not_ready() -> Refused:
    return Refused(503, "Service Unavailable", "The engine is starting: its weights are being loaded.")
