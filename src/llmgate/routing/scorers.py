"""The built-in scorers of profiles: how good each endpoint is in one respect, from 0 to 1.

Where an amount is compared (load, latency), an endpoint's score is the least amount over its own: the best has 1, one
with twice as much 0.5. A difference that does not matter then does not look like one, as it would between the extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Scorer
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest, Usage
from llmgate.routing.latencies import Latencies
from llmgate.routing.limits import check, check_whole
from llmgate.routing.pins import Pins


@dataclass
class PrefixScorer(Scorer):
    """The part of the prompt that the endpoint is thought to hold in its cache."""

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        prompt = max(request.prompt_tokens, 1)
        return [min(cached / prompt, 1.0) for cached in candidates.cached_tokens]


@dataclass
class LoadScorer(Scorer):
    """Few outstanding tokens for the weight, counting this request's."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        own = request.tokens or 1
        return _least_over([(each.load.tokens + own) / each.weight for each in candidates.endpoints])


@dataclass
class RequestsScorer(Scorer):
    """Few requests in flight for the weight, counting this one."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return _least_over([(each.load.requests + 1) / each.weight for each in candidates.endpoints])


@dataclass
class RecentScorer(Scorer):
    """Few tokens booked lately for the weight (they fade with a time constant of a minute), counting this request's."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        own = request.tokens or 1
        return _least_over([(each.load.recent_tokens + own) / each.weight for each in candidates.endpoints])


@dataclass
class KvUsageScorer(Scorer):
    """The free part of the KV cache, by the engine's own fresh reading; unknown counts as the mean of the known."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        def free(_: Endpoint, metrics: EndpointMetrics) -> float | None:
            return None if metrics.kv_usage is None else 1.0 - min(metrics.kv_usage, 1.0)

        return _by_reading(candidates, free)


@dataclass
class QueueScorer(Scorer):
    """Few requests waiting in the engine's own queue for the weight: 1 for none, 0.5 for one; by its own fresh
    reading, unknown counts as the mean of the known."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        def free(endpoint: Endpoint, metrics: EndpointMetrics) -> float | None:
            return None if metrics.waiting is None else 1.0 / (1.0 + metrics.waiting / endpoint.weight)

        return _by_reading(candidates, free)


@dataclass
class SessionScorer(Scorer):
    """1 for the endpoint that the request's session was sent to before, 0 for the others; 1 for all without one."""

    entries: int = 100_000
    ttl: float = 300.0
    _pins: Pins = field(init=False, repr=False, compare=False)

    needs_session = True

    def __post_init__(self) -> None:
        check_whole("entries", self.entries, least=1, most=10_000_000)
        check("ttl", self.ttl, above=True, most=31_536_000)
        self._pins = Pins(self.entries, self.ttl)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        home = self._pins.home(request, candidates.now)
        if home is None:
            return [1.0] * len(candidates.endpoints)
        return [1.0 if endpoint is home else 0.0 for endpoint in candidates.endpoints]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._pins.use(request, endpoint, now)

    def removed(self, endpoint: Endpoint) -> None:
        self._pins.forget(endpoint)


@dataclass
class LatencyScorer(Scorer):
    """A short response time: its mean per output token, old answers fading with `time_constant` seconds, times the
    requests in flight, counting this one. An endpoint that has not answered yet counts as average."""

    time_constant: float = 30.0
    _latencies: Latencies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check("time_constant", self.time_constant, above=True, most=86_400)
        self._latencies = Latencies(self.time_constant)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints = candidates.endpoints
        return _least_over(
            [
                max(mean, 1e-9) * (endpoint.load.requests + 1) / endpoint.weight
                for endpoint, mean in zip(endpoints, self._latencies.means(endpoints), strict=True)
            ]
        )

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self._latencies.note(request, endpoint, usage, seconds, now)

    def removed(self, endpoint: Endpoint) -> None:
        self._latencies.forget(endpoint)


BUILT_IN: Mapping[str, type[Scorer]] = {
    "prefix": PrefixScorer,
    "load": LoadScorer,
    "requests": RequestsScorer,
    "recent": RecentScorer,
    "kv-usage": KvUsageScorer,
    "queue": QueueScorer,
    "session": SessionScorer,
    "latency": LatencyScorer,
}


def _least_over(amounts: Sequence[float]) -> Sequence[float]:
    least = min(amounts)
    return [least / amount for amount in amounts]


def _by_reading(candidates: Candidates, score: Callable[[Endpoint, EndpointMetrics], float | None]) -> Sequence[float]:
    """What `score` makes of each fresh reading, and the mean of that, or 1, where there is none."""
    now = candidates.now
    scores = [
        score(endpoint, endpoint.metrics) if endpoint.metrics is not None and endpoint.metrics.fresh(now) else None
        for endpoint in candidates.endpoints
    ]
    known = [each for each in scores if each is not None]
    usual = sum(known) / len(known) if known else 1.0
    return [usual if each is None else each for each in scores]
