"""Who the engines are while the gateway runs: they join, change and leave under traffic.

Nothing here waits but the task of one that leaves. What is in flight on it goes on until the drain time is over; then
its connections are cut, as if the engine had gone away, and it is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec
from llmgate.gateway.proxy import Destination
from llmgate.probes.monitor import Monitor
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, UpstreamClient

LOOK_SECONDS = 0.1
"""How often it is looked whether a leaving endpoint has nothing in flight any more."""

logger = logging.getLogger("llmgate")


class Member(NamedTuple):
    spec: EndpointSpec
    destination: Destination


@dataclass(slots=True)
class Changes:
    """Names of endpoints."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


class Fleet:
    """`destinations`, by name, is shared with the proxy and kept up to date here. `drain` is in seconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        metrics: Metrics,
        monitor: Monitor,
        client: UpstreamClient,
        destinations: dict[str, Destination],
        *,
        drain: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.drain = drain
        self._scheduler = scheduler
        self._metrics = metrics
        self._monitor = monitor
        self._client = client
        self._destinations = destinations
        self._clock = clock
        self._sleep = sleep
        self._leaving: dict[Endpoint, asyncio.Task[None]] = {}

    def watch(self) -> None:
        """Begin to probe everyone. Needs a running event loop, as everything that follows."""
        for endpoint in self._scheduler.pool:
            self._monitor.watch(endpoint)

    def apply(self, members: Iterable[Member]) -> Changes:
        """Make these the members: those there are under the same name and URL stay what they are, with all that is
        known of them and in flight there; others join, and all the rest begin to leave."""
        changes = Changes()
        wanted = {member.spec.name: member for member in members}
        for endpoint in list(self._scheduler.pool):
            if endpoint.name not in wanted and endpoint not in self._leaving:
                self.remove(endpoint)
                changes.removed.append(endpoint.name)
        for name, member in wanted.items():
            found = self._scheduler.pool.get(name)
            if found is None or found in self._leaving:
                self.add(member)
                changes.added.append(name)
            elif found.spec.url != member.spec.url:
                self.add(member)
                changes.changed.append(name)
            elif (found.spec, self._destinations[name]) != member:
                self._update(found, member)
                changes.changed.append(name)
        return changes

    def add(self, member: Member) -> Endpoint:
        """One more, or one in the place of its namesake: a namesake of another URL leaves, one that was leaving and
        has the same URL stays after all."""
        name = member.spec.name
        pool = self._scheduler.pool
        endpoint = pool.get(name)
        if endpoint is not None and endpoint.spec.url == member.spec.url:
            if (leaving := self._leaving.pop(endpoint, None)) is not None:
                leaving.cancel()
                pool.set_draining(endpoint, False)
            self._update(endpoint, member)
            return endpoint
        if endpoint is not None:
            self._replace(endpoint)
        self._destinations[name] = member.destination
        endpoint = pool.add(member.spec)
        self._monitor.watch(endpoint)
        return endpoint

    def remove(self, endpoint: Endpoint) -> None:
        """It gets no new requests; once nothing is in flight there, or the drain time is over, it is gone."""
        if endpoint not in self._leaving:
            self._scheduler.pool.set_draining(endpoint, True)
            self._leave(endpoint, self._destinations[endpoint.name].target)

    def is_leaving(self, endpoint: Endpoint) -> bool:
        return endpoint in self._leaving

    async def stop(self) -> None:
        """Wait for nobody who is leaving any more."""
        tasks = list(self._leaving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _update(self, endpoint: Endpoint, member: Member) -> None:
        before, target = endpoint.spec, self._destinations[endpoint.name].target
        self._scheduler.pool.update(endpoint, member.spec)
        self._destinations[endpoint.name] = member.destination
        if not self._is_wanted(target):  # other TLS from now on; what is in flight goes on with that of before
            self._client.retire(target)
        if (before.engine, before.models) != (member.spec.engine, member.spec.models):
            self._monitor.rewatch(endpoint)

    def _replace(self, endpoint: Endpoint) -> None:
        """Its name is wanted by another: it leaves the pool at once, and what is in flight ends on the object."""
        target = self._destinations[endpoint.name].target
        endpoint.draining = True
        self._forget(endpoint)
        if endpoint not in self._leaving:
            self._leave(endpoint, target)

    def _leave(self, endpoint: Endpoint, target: Target) -> None:
        self._leaving[endpoint] = asyncio.create_task(
            self._see_off(endpoint, target), name=f"leaving of {endpoint.name}"
        )

    async def _see_off(self, endpoint: Endpoint, target: Target) -> None:
        deadline = self._clock() + self.drain
        while endpoint.load.requests and self._clock() < deadline:
            await self._sleep(LOOK_SECONDS)
        del self._leaving[endpoint]
        left = endpoint.load.requests
        if self._scheduler.pool.get(endpoint.name) is endpoint:
            del self._destinations[endpoint.name]
            self._forget(endpoint)
        if not self._is_wanted(target):
            self._client.cut(target)
        logger.info("%s has left%s", endpoint.name, f"; {left} requests were still in flight" if left else "")

    def _is_wanted(self, target: Target) -> bool:
        return any(destination.target == target for destination in self._destinations.values())

    def _forget(self, endpoint: Endpoint) -> None:
        self._monitor.unwatch(endpoint)
        self._scheduler.remove(endpoint.name)
        self._metrics.forget(endpoint.name)
