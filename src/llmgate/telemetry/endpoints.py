"""Series of the pool, read from its endpoints at the scrape: nothing is kept, so nothing can be out of date."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint, EndpointMetrics
from llmgate.telemetry import exposition

Reading = Callable[[Endpoint, float], float | None]

MOST_MODELS = 500
"""Of the pool that have a series of their own. Adapters have none: one engine may list thousands."""


def _fresh(read: Callable[[EndpointMetrics], float | None]) -> Reading:
    """What the engine reports; None while that is unknown or stale."""

    def of(endpoint: Endpoint, now: float) -> float | None:
        metrics = endpoint.metrics
        return read(metrics) if metrics is not None and metrics.fresh(now) else None

    return of


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
        "llmgate_endpoint_weight",
        "What the endpoint counts for in routing now: less than its full weight while it starts slowly.",
        lambda endpoint, _: endpoint.weight,
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
        _fresh(lambda metrics: metrics.kv_usage),
    ),
    (
        "llmgate_endpoint_kv_cache_capacity_tokens",
        "Tokens that the engine's KV cache holds; absent if the engine does not tell.",
        _fresh(lambda metrics: metrics.kv_capacity_tokens),
    ),
    (
        "llmgate_endpoint_running_requests",
        "Requests in the engine's batch, as it reports; absent while unknown or stale.",
        _fresh(lambda metrics: metrics.running),
    ),
    (
        "llmgate_endpoint_waiting_requests",
        "Requests in the engine's own queue, as it reports; absent while unknown or stale.",
        _fresh(lambda metrics: metrics.waiting),
    ),
    (
        "llmgate_endpoint_max_running_requests",
        "Requests that the engine runs at once at the most; absent if the engine does not tell.",
        _fresh(lambda metrics: metrics.max_running),
    ),
    (
        "llmgate_endpoint_metrics_age_seconds",
        "Age of the last reading of the engine's own gauges; absent if there never was one.",
        lambda endpoint, now: max(now - endpoint.metrics.at, 0.0) if endpoint.metrics else None,
    ),
)

TOKENS: tuple[tuple[str, Reading], ...] = (
    ("prompt", _fresh(lambda metrics: metrics.counts.prompt_tokens)),
    ("cached", _fresh(lambda metrics: metrics.counts.cached_tokens)),
    ("completion", _fresh(lambda metrics: metrics.counts.completion_tokens)),
)
PREEMPTIONS = _fresh(lambda metrics: metrics.counts.preemptions)


class EndpointSeries:
    def __init__(self, pool: EndpointPool, clock: Callable[[], float]) -> None:
        """`clock` is the monotonic clock, in seconds, that the pool's readings are stamped with."""
        self._pool = pool
        self._clock = clock

    def lines(self, openmetrics: bool) -> Iterator[str]:
        now = self._clock()
        self._pool.refresh(now)
        members = [(endpoint, exposition.labels(endpoint=endpoint.name)) for endpoint in self._pool]
        for name, help, read in GAUGES:
            yield exposition.header(name, "gauge", help, openmetrics=openmetrics)
            for endpoint, labels in members:
                if (value := read(endpoint, now)) is not None:
                    yield f"{name}{{{labels}}} {float(value)}\n"

        name = "llmgate_endpoint_info"
        yield exposition.header(name, "gauge", "1; what the endpoint is.", openmetrics=openmetrics)
        for endpoint, labels in members:
            spec = endpoint.spec
            more = exposition.labels(engine=endpoint.engine or "", gpu=spec.gpu or "", node=spec.node or "")
            yield f"{name}{{{labels},{more}}} 1.0\n"

        name = "llmgate_endpoint_state"
        help = "1 for the state of the endpoint's health, 0 for the others."
        yield exposition.header(name, "gauge", help, openmetrics=openmetrics)
        for endpoint, labels in members:
            for state in State:
                yield f'{name}{{{labels},state="{state.value}"}} {float(endpoint.health.state is state)}\n'

        name = "llmgate_endpoint_state_changes_total"
        help = "Times that the endpoint's health has come to be in a state."
        yield exposition.header(name, "counter", help, openmetrics=openmetrics)
        for endpoint, labels in members:
            for state, times in tuple(endpoint.health.times.items()):
                yield f'{name}{{{labels},state="{state.value}"}} {times}\n'

        name = "llmgate_endpoint_tokens_total"
        help = "Tokens that the engine has counted itself, whoever asked; cached ones are a part of prompt."
        yield exposition.header(name, "counter", help, openmetrics=openmetrics)
        for endpoint, labels in members:
            for kind, read in TOKENS:
                if (value := read(endpoint, now)) is not None:
                    yield f'{name}{{{labels},kind="{kind}"}} {value}\n'

        name = "llmgate_endpoint_preemptions_total"
        help = "Requests that the engine has put back from its batch for want of KV cache."
        yield exposition.header(name, "counter", help, openmetrics=openmetrics)
        for endpoint, labels in members:
            if (value := PREEMPTIONS(endpoint, now)) is not None:
                yield f"{name}{{{labels}}} {value}\n"

        name = "llmgate_ready_endpoints"
        help = "Endpoints of the model that may be given a request now."
        yield exposition.header(name, "gauge", help, openmetrics=openmetrics)
        for model in self._models():
            yield f"{name}{{{exposition.labels(model=model)}}} {float(len(self._pool.ready(model, now)))}\n"

    def _models(self) -> list[str]:
        """Those that are configured first."""
        stated = dict.fromkeys(model for endpoint in self._pool for model in endpoint.spec.models or ())
        adapters = {adapter for endpoint in self._pool for adapter in endpoint.adapters}
        learnt = dict.fromkeys(model for model in self._pool.models if model not in adapters)
        return list(stated | learnt)[:MOST_MODELS]
