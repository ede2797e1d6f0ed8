"""Gauges of the pool, read from its endpoints at the scrape: nothing is kept, so nothing can be out of date."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint

Reading = Callable[[Endpoint, float], float | None]


def _fresh_waiting(endpoint: Endpoint, now: float) -> float | None:
    return endpoint.metrics.waiting if endpoint.metrics and endpoint.metrics.fresh(now) else None


def _fresh_kv_usage(endpoint: Endpoint, now: float) -> float | None:
    return endpoint.metrics.kv_usage if endpoint.metrics and endpoint.metrics.fresh(now) else None


GAUGES: tuple[tuple[str, str, Reading], ...] = (
    (
        "llmgate_endpoint_up",
        "1 while the endpoint's health is up, else 0 (starting, down, ejected, half-open).",
        lambda endpoint, _: endpoint.health.state is State.UP,
    ),
    (
        "llmgate_endpoint_draining",
        "1 while the endpoint is draining and gets no new requests.",
        lambda endpoint, _: endpoint.draining,
    ),
    (
        "llmgate_endpoint_inflight_requests",
        "Requests that the gateway has in flight on the endpoint.",
        lambda endpoint, _: endpoint.load.requests,
    ),
    (
        "llmgate_endpoint_inflight_tokens",
        "Tokens of work ahead of the endpoint by the gateway's books: prompts to prefill plus output still expected.",
        lambda endpoint, _: endpoint.load.tokens,
    ),
    (
        "llmgate_endpoint_kv_cache_usage_ratio",
        "Used part of the engine's KV cache, 0 to 1, as it reports; absent while unknown or stale.",
        _fresh_kv_usage,
    ),
    (
        "llmgate_endpoint_waiting_requests",
        "Requests in the engine's own queue, as it reports; absent while unknown or stale.",
        _fresh_waiting,
    ),
    (
        "llmgate_endpoint_metrics_age_seconds",
        "Age of the last reading of the engine's own gauges; absent if there never was one.",
        lambda endpoint, now: max(now - endpoint.metrics.at, 0.0) if endpoint.metrics else None,
    ),
)


class EndpointCollector(Collector):
    def __init__(self, pool: EndpointPool, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self._clock()
        self._pool.refresh(now)
        for name, help, read in GAUGES:
            family = GaugeMetricFamily(name, help, labels=["endpoint"])
            for endpoint in self._pool:
                value = read(endpoint, now)
                if value is not None:
                    family.add_metric([endpoint.name], value)
            yield family
