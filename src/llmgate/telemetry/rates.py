"""How fast things are going: rates and percentiles of the last seconds, from differences of what `Metrics` counts.

Nothing is added to a request: the counters are looked at once a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint
from llmgate.telemetry.metrics import TTFT, Metrics
from llmgate.telemetry.totals import Totals

RATE_SECONDS = 10
"""What rates are taken over: long enough for a request or two of a quiet fleet, short enough to see a change come."""
RATIO_SECONDS = 30
"""What percentiles and ratios are taken over: they need more requests than a rate does."""
HISTORY = 120
"""Points of a sparkline, one a second. 64 endpoints' take 0.5 MB."""


class Recent(NamedTuple):
    """Of one endpoint or of all. Rates are per second; None is what nobody knows, or of no request."""

    requests: float = 0.0  # that ended
    errors: float = 0.0  # of those 5xx and broken off
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    ttft_p50: float | None = None  # seconds
    ttft_p99: float | None = None
    prefix_hit_ratio: float | None = None  # cached part of the prompts


class Point(NamedTuple):
    """One second of a sparkline."""

    in_flight: float
    waiting: float
    requests: float
    output_tokens: float
    ttft_p50: float | None


class _Sample(NamedTuple):
    at: float
    own: Totals  # by what went through the gateway
    engine: tuple[int, int] | None  # prompt and completion tokens by the engine's own counters


class _Track:
    """What is remembered of one endpoint."""

    __slots__ = ("endpoint", "points", "samples")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.samples: deque[_Sample] = deque(maxlen=RATIO_SECONDS + 1)
        self.points: deque[Point] = deque(maxlen=HISTORY)

    def take(self, sample: _Sample) -> None:
        if self.samples and sample.own.requests < self.samples[-1].own.requests:
            self.samples.clear()  # counted anew
        self.samples.append(sample)

    def rates(self) -> Recent:
        """Without percentiles and ratios."""
        if len(self.samples) < 2:
            return Recent()
        last, first = self.samples[-1], self.samples[max(len(self.samples) - 1 - RATE_SECONDS, 0)]
        own = last.own.since(first.own)
        prompt, output = own.prompt, own.completion
        if last.engine and first.engine:
            told = [now - then for now, then in zip(last.engine, first.engine, strict=True)]
            if min(told) >= 0:  # else it was started again. They rise with each token, ours when an answer has ended
                prompt, output = told
        seconds = last.at - first.at
        return Recent(own.requests / seconds, own.errors / seconds, prompt / seconds, output / seconds)

    def lately(self) -> Totals:
        """What percentiles and ratios are made of."""
        return self.samples[-1].own.since(self.samples[0].own) if self.samples else Totals()


class Rates:
    """`sample` is to be called once a second. `clock` is the monotonic clock, in seconds, of the pool's readings."""

    def __init__(self, pool: EndpointPool, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._tracks: dict[str, _Track] = {}
        self._points: deque[Point] = deque(maxlen=HISTORY)
        self._rejected: deque[tuple[float, int]] = deque(maxlen=RATE_SECONDS + 1)

    def sample(self) -> None:
        now = self._clock()
        if self._rejected and now <= self._rejected[-1][0]:
            return
        counted = self._metrics.totals()
        self._rejected.append((now, self._metrics.rejections))
        tracks = {endpoint.name: self._track(endpoint) for endpoint in self._pool}
        self._tracks = tracks
        for name, track in tracks.items():
            endpoint = track.endpoint
            track.take(_Sample(now, counted.get(name, Totals()), _engine_tokens(endpoint, now)))
            rates, waiting = track.rates(), _waiting(endpoint, now)
            track.points.append(Point(endpoint.load.requests, waiting, rates.requests, rates.output_tokens, None))
        sums = [sum(values) for values in zip(*(track.points[-1][:4] for track in tracks.values()), strict=True)]
        ttft = quantile(0.5, TTFT.bounds, self._lately().ttft)
        self._points.append(Point._make([*(sums or (0, 0, 0.0, 0.0)), ttft]))

    def of(self, endpoint: Endpoint) -> Recent:
        track = self._track(endpoint)
        return _with_ratios(track.rates(), track.lately())

    def of_all(self) -> Recent:
        parts = [track.rates()[:4] for track in self._tracks.values()]
        return _with_ratios(Recent(*map(sum, zip(*parts, strict=True))), self._lately())

    @property
    def rejected(self) -> float:
        """Requests a second that reached no endpoint."""
        if len(self._rejected) < 2:
            return 0.0
        (since, before), (now, count) = self._rejected[0], self._rejected[-1]
        return (count - before) / (now - since)

    def history(self) -> tuple[Sequence[Point], Mapping[str, Sequence[Point]]]:
        """Of all and of each endpoint, oldest first, a second apart."""
        return self._points, {name: track.points for name, track in self._tracks.items()}

    def _track(self, endpoint: Endpoint) -> _Track:
        track = self._tracks.get(endpoint.name)
        return track if track is not None and track.endpoint is endpoint else _Track(endpoint)

    def _lately(self) -> Totals:
        return Totals.sum(track.lately() for track in self._tracks.values())


def _with_ratios(rates: Recent, lately: Totals) -> Recent:
    return rates._replace(
        ttft_p50=quantile(0.5, TTFT.bounds, lately.ttft),
        ttft_p99=quantile(0.99, TTFT.bounds, lately.ttft),
        prefix_hit_ratio=lately.cached / lately.told_prompt if lately.told_prompt else None,
    )


def quantile(part: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """As Prometheus' histogram_quantile: linear within the bucket, and the last bound for what lies beyond it. None of
    no observation."""
    total = sum(counts)
    if not total:
        return None
    rank = part * total
    for (low, high), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if rank <= count and count:
            return low + (high - low) * rank / count
        rank -= count
    return float(bounds[-1])


def _engine_tokens(endpoint: Endpoint, now: float) -> tuple[int, int] | None:
    metrics = endpoint.metrics
    if metrics is None or not metrics.fresh(now):
        return None
    counts = metrics.counts
    if counts.prompt_tokens is None or counts.completion_tokens is None:
        return None
    return counts.prompt_tokens, counts.completion_tokens


def _waiting(endpoint: Endpoint, now: float) -> int:
    metrics = endpoint.metrics
    return metrics.waiting or 0 if metrics is not None and metrics.fresh(now) else 0
