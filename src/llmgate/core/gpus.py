"""The GPUs that were read, and what their health means for the endpoints that run on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf

from llmgate.core.gpu import RANK, Gpu, GpuHealth, GpuPolicy, GpuReading, GpuState
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint, EndpointSpec

DEGRADED_SHARE = 0.5
"""Of an endpoint's weight, while a GPU of its is degraded: about what a GPU at its thermal limit still does."""

LIFETIME = 10.0
"""Seconds after which a GPU that is no longer read is no longer known."""


class Gpus:
    """`here` is the node that endpoints without one are on."""

    def __init__(self, pool: EndpointPool, here: str, policy: GpuPolicy = GpuPolicy()) -> None:  # noqa: B008  (frozen)
        self._pool = pool
        self._here = here
        self._policy = policy
        self._readings: dict[str, GpuReading] = {}  # by UUID
        self._healths: dict[str, GpuHealth] = {}
        self._held: set[Endpoint] = set()

    def __iter__(self) -> Iterator[tuple[GpuReading, GpuHealth]]:
        for uuid, reading in self._readings.items():
            yield reading, self._healths[uuid]

    def set_policy(self, policy: GpuPolicy) -> None:
        """Other thresholds from the next readings on."""
        if policy != self._policy:
            self._policy = policy
            for health in self._healths.values():
                health.policy = policy

    def take_in(self, node: str, readings: Sequence[GpuReading]) -> list[tuple[Gpu, GpuState, str]]:
        """What a look at the GPUs of a node has shown; nothing at all: none of them is known any more. Returns those
        whose state has changed, with the reason."""
        changed = []
        for reading in readings:
            uuid = reading.gpu.uuid
            health = self._healths.get(uuid)
            if health is None:
                health = self._healths[uuid] = GpuHealth(self._policy)
            self._readings[uuid] = reading
            if health.observe(reading):
                changed.append((reading.gpu, health.state, health.reason))
        now = max((reading.at for reading in readings), default=inf)
        for uuid, reading in tuple(self._readings.items()):
            if reading.gpu.node == node and now - reading.at > LIFETIME:
                del self._readings[uuid], self._healths[uuid]
        self._apply()
        return changed

    def of(self, endpoint: Endpoint) -> list[tuple[GpuReading, GpuHealth]]:
        """Those that the endpoint runs on."""
        return [(reading, health) for reading, health in self if runs_on(endpoint.spec, reading.gpu, self._here)]

    def _apply(self) -> None:
        for endpoint in self._pool:
            if not endpoint.spec.gpus:
                continue
            own = self.of(endpoint)
            worst = _worst(health for _, health in own)
            if worst is not None and worst.state is GpuState.FAILED:
                self._held.add(endpoint)
                endpoint.health.hold(f"GPU: {worst.reason}")
            elif endpoint in self._held:
                self._held.discard(endpoint)
                endpoint.health.release()
            part = DEGRADED_SHARE if worst is not None and worst.state is GpuState.DEGRADED else 1.0
            if not endpoint.spec.weight_stated:
                part *= _share(endpoint.spec, [reading.gpu for reading, _ in own])
            if endpoint.derating != part:
                self._pool.derate(endpoint, part)
        self._held.intersection_update(self._pool)


def runs_on(spec: EndpointSpec, gpu: Gpu, here: str) -> bool:
    """`spec.gpus` are indices, which mean the whole GPU with all its instances, labels of instances, or UUIDs."""
    if gpu.node != (spec.node or here):
        return False
    return any(each == gpu.index if isinstance(each, int) else each in (gpu.uuid, gpu.label) for each in spec.gpus)


def _share(spec: EndpointSpec, gpus: Sequence[Gpu]) -> float:
    """The part that an endpoint has of as many whole GPUs as it names."""
    if all(gpu.mig is None for gpu in gpus):
        return 1.0
    return min(sum(gpu.share for gpu in gpus) / len(spec.gpus), 1.0)


def _worst(healths: Iterable[GpuHealth]) -> GpuHealth | None:
    return max(healths, key=lambda health: RANK[health.state], default=None)
