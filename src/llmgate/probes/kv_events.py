"""Follows what each endpoint's engine tells of its KV cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq

from llmgate.core.blocks import BlockIndex
from llmgate.core.health import State
from llmgate.core.types import Endpoint, KvEventSource
from llmgate.probes.kv_socket import KvSocket
from llmgate.probes.kv_stream import INSTEAD, KvStream
from llmgate.probes.page import MISSING, Ask, Fetch, Pace, ProbeFailed, answered, asker
from llmgate.probes.scrape import Starts
from llmgate.wire.kv_events import KvEventError, parse_sources

SOURCES_PATH = "/kv_event_sources"
TELLING = frozenset({"vllm"})
"""Engines that are asked where they tell of their caches. SGLang has no such page: its address is configured."""

LOOK_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""Between looks at an engine that cannot be followed."""

SWEEP_BLOCKS = 4096
"""Dropped from the index with each look, of caches that are gone: some 2 ms."""

logger = logging.getLogger("llmgate.probes")


class KvEvents:
    """What all endpoints share: the index, and ZeroMQ's context, which is made when it is first needed."""

    def __init__(self, index: BlockIndex, wall: Callable[[], float] = time.time) -> None:
        self.index = index
        self.wall = wall
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        if self._context is None:
            self._context = zmq.Context()
        return self._context

    def close(self) -> None:
        """After all who follow have been closed."""
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


class KvEventsProbe:
    """Call it again and again: it opens the endpoint's sources when its engine is up, and anew when that has restarted
    or the configuration has changed. `close` ends it."""

    def __init__(self, events: KvEvents, endpoint: Endpoint, fetch: Fetch, pace: Pace, probe: Starts) -> None:
        self._events = events
        self._endpoint = endpoint
        self._ask: Ask = asker(fetch, endpoint, pace.timeout)
        self._probe = probe
        self._sockets: list[KvSocket] = []
        self._followed: object = None  # which start of the engine, and by which configuration
        self._unsure = False  # where they come from, or whether they can be followed
        self._logged: set[str] = set()

    def interval(self) -> float:
        """Seconds until the next look."""
        return RETRY_SECONDS if self._unsure else LOOK_SECONDS

    async def __call__(self) -> None:
        self._events.index.sweep(SWEEP_BLOCKS)
        endpoint = self._endpoint
        if endpoint.engine is None or not self._probe.known or endpoint.health.state is State.STARTING:
            return
        self._events.index.adapters.update(endpoint.adapters)
        wanted = (self._probe.times_learnt, endpoint.spec.kv_events, endpoint.engine)
        if wanted == self._followed:
            return
        self._close_sockets()
        self._unsure = True
        try:
            sources, told = await self._sources()
        except (ProbeFailed, KvEventError) as failure:
            self._log_once(f"where its KV events come from is not known ({failure}): {INSTEAD}")
            return
        try:
            for source in sources:
                self._open(source, told_by_engine=told)
        except OSError as error:
            self._close_sockets()  # of all ranks: what the others hold says too little of the endpoint
            self._log_once(f"its KV events cannot be followed at {error.strerror}: {INSTEAD}")
            return
        self._unsure = False
        self._followed = wanted
        self._logged.clear()

    def close(self) -> None:
        self._close_sockets()
        self._followed = None

    async def _sources(self) -> tuple[list[KvEventSource], bool]:
        """And whether the engine told of them. Raises ProbeFailed and KvEventError."""
        configured = self._endpoint.spec.kv_events
        if isinstance(configured, KvEventSource):
            return [configured], False
        if configured == "off" or self._endpoint.engine not in TELLING:
            return [], False
        page = await self._ask(SOURCES_PATH)
        if page.status in MISSING:
            return [], True
        if page.status != 200:
            raise answered(SOURCES_PATH, page)
        return parse_sources(page.body), True

    def _open(self, source: KvEventSource, *, told_by_engine: bool) -> None:
        stream = KvStream(self._events.index, self._endpoint, self._events.wall, can_replay=source.replay is not None)
        socket = KvSocket(
            self._events.context,
            stream,
            source,
            told_by_engine=told_by_engine,
            host=urlsplit(self._endpoint.spec.url).hostname or "127.0.0.1",
            warn=self._log_once,
        )
        self._sockets.append(socket)
        logger.info("%s: its KV events are followed at %s", self._endpoint.name, source.endpoint)

    def _close_sockets(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._sockets = []

    def _log_once(self, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.warning("%s: %s", self._endpoint.name, what)
