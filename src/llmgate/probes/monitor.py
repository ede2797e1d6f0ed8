"""Asks every endpoint, all the time and each on its own, how it is: health, models, load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint
from llmgate.probes.health import HealthProbe
from llmgate.probes.kv_events import KvEvents, KvEventsProbe
from llmgate.probes.page import Fetch, Pace
from llmgate.probes.periodic import Sleep, repeat
from llmgate.probes.scrape import Scraper


class Monitor:
    """Three tasks for each watched endpoint, so that one which hangs delays no other.

    It never gives up on an endpoint. What it learns goes into the endpoint's `health`, `engine`, `models` (through the
    pool) and `metrics`, and what its KV cache holds into the index of `kv_events`; without these, nobody asks for it.
    """

    def __init__(
        self,
        pool: EndpointPool,
        fetch: Fetch,
        *,
        health: Pace,
        scrape: Pace,
        clock: Callable[[], float],
        sleep: Sleep,
        rng: Random,
        kv_events: KvEvents | None = None,
    ) -> None:
        self._kv_events = kv_events
        self._kv_probes: dict[Endpoint, KvEventsProbe] = {}
        self._pool = pool
        self._fetch = fetch
        self._health = health
        self._scrape = scrape
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._tasks: dict[Endpoint, tuple[asyncio.Task[None], ...]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def watch(self, endpoint: Endpoint) -> None:
        """Begin at once; nothing happens if it is watched already. Needs a running event loop."""
        if endpoint in self._tasks:
            return
        probe = HealthProbe(self._pool, endpoint, self._fetch, self._health)
        scraper = Scraper(endpoint, self._fetch, self._scrape, self._clock, probe)
        works: dict[str, HealthProbe | Scraper | KvEventsProbe] = {"health": probe, "metrics": scraper}
        if self._kv_events is not None:
            following = KvEventsProbe(self._kv_events, endpoint, self._fetch, self._scrape, probe)
            works["KV events"] = self._kv_probes[endpoint] = following
        self._tasks[endpoint] = tuple(
            asyncio.create_task(repeat(name, work, work.interval, sleep=self._sleep, rng=self._rng), name=name)
            for name, work in ((f"{what} of {endpoint.name}", work) for what, work in works.items())
        )

    def unwatch(self, endpoint: Endpoint) -> None:
        """End at once; nothing more is written to the endpoint."""
        for task in self._tasks.pop(endpoint, ()):
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if (following := self._kv_probes.pop(endpoint, None)) is not None:
            following.close()

    def set_pace(self, health: Pace, scrape: Pace) -> None:
        """How often from now on; everything that is watched is asked at once."""
        self._health, self._scrape = health, scrape
        for endpoint in list(self._tasks):
            self.rewatch(endpoint)

    def rewatch(self, endpoint: Endpoint) -> None:
        """Ask it at once, and learn again what it is and serves; its health stays as it is meanwhile. Nothing happens
        if it is not watched."""
        if endpoint in self._tasks:
            self.unwatch(endpoint)
            self.watch(endpoint)

    async def stop(self) -> None:
        """Unwatch everything and wait until all tasks are gone."""
        for endpoint in list(self._tasks):
            self.unwatch(endpoint)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._kv_events is not None:
            self._kv_events.close()
