"""What the gateway counts, for Prometheus. One `Metrics` a gateway; it is only touched on the event loop."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector

from llmgate import __version__
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Usage
from llmgate.telemetry import exposition
from llmgate.telemetry.decisions import DecisionsByPolicy
from llmgate.telemetry.endpoints import EndpointSeries
from llmgate.telemetry.histogram import Exemplar, Histogram, Shape
from llmgate.telemetry.objectives import Objectives
from llmgate.telemetry.prefix_hits import PrefixHits
from llmgate.telemetry.totals import Totals

DURATION = Shape(
    "llmgate_request_duration_seconds",
    "From the arrival of a request to the last byte of its answer.",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600),
)
TTFT = Shape(
    "llmgate_time_to_first_token_seconds",
    "From the arrival of a request to the first byte of its answer, streamed answers only.",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2.5, 5, 10, 20, 40, 60, 120),
)
ITL = Shape(
    "llmgate_inter_token_latency_seconds",
    "Mean time between tokens of a streamed answer, observed once at its end: (duration - TTFT) / (tokens - 1).",
    (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2),
)
OVERHEAD = Shape(
    "llmgate_gateway_overhead_seconds",
    "What the gateway itself took to read a request, estimate its tokens and choose an endpoint.",
    (1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1),
)
ESTIMATE = Shape(
    "llmgate_estimate_error_ratio",
    "Prompt tokens that routing went by / the engine's own count: 1 is exact, as it should be with a tokenizer.",
    (0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 0.98, 1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 4),
)


BATCH = 64
"""Requests that are taken in at once: a third of the cost of one at a time, since the code and the series stay in the
processor's cache."""

FIRST_CODES = (200, 502, 503, 504)
REASONS = ("internal_error", "no_ready_endpoint", "overloaded_requests")
RESULTS = ("applied", "refused")
"""What is counted from zero on. Prometheus' rate() does not see the first value of a series, so that an error which
comes once in a while would go unseen."""

_Ended = tuple[str, str, int, bool, float, float | None, float | None, Usage | None, int | None, int, str | None]


class _Series:
    """Everything that is counted of one model on one endpoint."""

    __slots__ = (
        "broken",
        "cached",
        "codes",
        "completion",
        "duration",
        "estimate",
        "expected_cached",
        "hits",
        "itl",
        "labels",
        "overhead",
        "prompt",
        "ttft",
    )

    def __init__(self, model: str, endpoint: str, estimate: Histogram) -> None:
        self.labels = exposition.labels(model=model, endpoint=endpoint)
        self.codes = dict.fromkeys(FIRST_CODES, 0)
        self.broken = 0
        self.prompt = 0
        self.cached: int | None = None
        self.expected_cached = 0  # of those whose `cached` is told
        self.hits = PrefixHits()
        self.completion = 0
        self.duration = Histogram(DURATION)
        self.ttft = Histogram(TTFT)
        self.itl = Histogram(ITL)
        self.overhead = Histogram(OVERHEAD)
        self.estimate = estimate  # the model's, shared by its endpoints

    def exemplify(self, trace_id: str, duration: float, ttft: float | None) -> None:
        """Of a request that was observed, to within the time in which requests are taken in."""
        at = time.time()
        self.duration.exemplify(Exemplar(duration, trace_id, at))
        if ttft is not None:
            self.ttft.exemplify(Exemplar(ttft, trace_id, at))

    def totals(self) -> Totals:
        codes = self.codes
        errors = sum(count for code, count in codes.items() if code >= 500) + self.broken
        told = 0 if self.cached is None else self.prompt
        ttft = tuple(self.ttft.counts)
        return Totals(sum(codes.values()), errors, self.prompt, self.completion, told, self.cached or 0, ttft)


class Metrics:
    """Counters and histograms of requests, and a registry of its own for everything else.

    Label values must come from configuration and engines, never from clients: `model` is a resolved name, `endpoint` a
    member of the pool, `reason` one of the caller's constants.
    """

    def __init__(self, pool: EndpointPool, clock: Callable[[], float]) -> None:
        """`clock` is the monotonic clock, in seconds, that the pool's readings are stamped with."""
        self._pool = pool
        self._clock = clock
        self._ended: list[_Ended] = []  # not yet in the series
        self._series: dict[tuple[str, str], _Series] = {}
        self._estimates: dict[str, Histogram] = {}
        self.objectives = Objectives()
        self.decisions = DecisionsByPolicy()
        self._endpoints = EndpointSeries(pool, clock)
        self._retries: Counter[tuple[str, str]] = Counter()
        self._rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._reloads: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.registry = CollectorRegistry()
        build = Info("llmgate_build", "The running version.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # The hot path

    def request_ended(
        self,
        model: str,
        endpoint: str,
        status: int,
        *,
        stream: bool,
        duration: float,
        ttft: float | None = None,
        overhead: float | None = None,
        usage: Usage | None = None,
        estimated_prompt_tokens: int | None = None,
        expected_cached_tokens: int = 0,
        trace_id: str | None = None,
    ) -> None:
        """One request is over, however it ended; `endpoint` is the last one tried, times are seconds.

        What is None is not counted. `estimated_prompt_tokens` are those that routing went by, however it got them;
        `expected_cached_tokens` those that the endpoint was thought to hold of them; `trace_id` is that of a trace that
        is recorded.
        """
        self._ended.append(
            (model, endpoint, status, stream, duration, ttft, overhead, usage, estimated_prompt_tokens,
             expected_cached_tokens, trace_id)
        )  # fmt: skip
        if len(self._ended) >= BATCH:
            self._take_in()

    def broken(self, model: str, endpoint: str) -> None:
        """An answer had begun, and could not be completed."""
        (self._series.get((model, endpoint)) or self._begin(model, endpoint)).broken += 1

    def retried(self, endpoint: str, reason: str) -> None:
        """An attempt on `endpoint` failed for `reason`, and the request goes on to another."""
        self._retries[endpoint, reason] += 1

    def rejected(self, reason: str) -> None:
        """A request was answered by the gateway itself without reaching an endpoint."""
        self._rejected[reason] += 1

    def reloaded(self, result: str) -> None:
        """The configuration was `applied` again, or `refused`."""
        self._reloads[result] += 1

    def _take_in(self) -> None:
        ended, self._ended = self._ended, []
        now = self._clock()
        for each in ended:
            model, endpoint, status, stream, duration, ttft, overhead, usage, estimated, expected_cached, trace = each
            series = self._series.get((model, endpoint))
            if series is None:
                series = self._begin(model, endpoint)
            series.codes[status] = series.codes.get(status, 0) + 1
            series.duration.observe(duration)
            if overhead is not None:
                series.overhead.observe(overhead)
            if stream and ttft is not None:
                series.ttft.observe(ttft)
            if trace is not None:
                series.exemplify(trace, duration, ttft if stream else None)
            if usage is None:
                continue
            series.prompt += usage.prompt_tokens
            series.completion += usage.completion_tokens
            if usage.cached_tokens is not None:
                series.cached = (series.cached or 0) + usage.cached_tokens
                series.expected_cached += expected_cached
                series.hits.observe(usage.cached_tokens, usage.prompt_tokens, now)
            if stream and ttft is not None and usage.completion_tokens > 1:
                series.itl.observe((duration - ttft) / (usage.completion_tokens - 1))
            if estimated is not None and usage.prompt_tokens and not usage.counted:
                series.estimate.observe(estimated / usage.prompt_tokens)

    # Scrapes and membership

    def totals(self) -> dict[str, Totals]:
        """By endpoint, all that was counted of it until now."""
        self._take_in()
        parts: dict[str, list[Totals]] = {}
        for (_, endpoint), series in self._series.items():
            parts.setdefault(endpoint, []).append(series.totals())
        return {endpoint: Totals.sum(own) for endpoint, own in parts.items()}

    @property
    def rejections(self) -> int:
        """Requests that the gateway has answered itself."""
        return self._rejected.total()

    def forget(self, endpoint: str) -> None:
        """Drop all series of an endpoint that has left the pool; a namesake added later starts at zero."""
        self._take_in()
        self._series = {key: series for key, series in self._series.items() if key[1] != endpoint}
        self._retries = Counter({key: count for key, count in self._retries.items() if key[0] != endpoint})
        models = {model for model, _ in self._series}
        self._estimates = {model: histogram for model, histogram in self._estimates.items() if model in models}
        self.objectives.forget(endpoint, models.__contains__)

    def pieces(self, *, openmetrics: bool) -> Iterator[str]:
        """The text of a scrape, in pieces that take well below a millisecond each. Requests may end, and endpoints come
        and go, between two of them."""
        self._take_in()
        self._forget_stragglers()
        yield from self._lines(openmetrics)
        yield from exposition.pieces(self.registry, openmetrics=openmetrics)

    def _begin(self, model: str, endpoint: str) -> _Series:
        estimate = self._estimates.setdefault(model, Histogram(ESTIMATE))
        series = self._series[model, endpoint] = _Series(model, endpoint, estimate)
        return series

    def _forget_stragglers(self) -> None:
        """A request that outlives its endpoint's removal brings the series back at its end."""
        counted = {endpoint for _, endpoint in self._series} | {endpoint for endpoint, _ in self._retries}
        for endpoint in counted.union(self.objectives.endpoints):
            if self._pool.get(endpoint) is None:
                self.forget(endpoint)

    def _lines(self, openmetrics: bool) -> Iterator[str]:
        everything = tuple(self._series.values())

        name = "llmgate_requests_total"
        yield exposition.header(
            name, "counter", "Requests that reached an endpoint, by the status of the answer.", openmetrics=openmetrics
        )
        for series in everything:
            yield "".join(f'{name}{{{series.labels},code="{code}"}} {count}\n' for code, count in series.codes.items())

        name = "llmgate_broken_answers_total"
        yield exposition.header(
            name, "counter", "Answers that had begun and could not be completed.", openmetrics=openmetrics
        )
        for series in everything:
            yield f"{name}{{{series.labels}}} {series.broken}\n"

        for shape, histograms in (
            (DURATION, [(series.labels, series.duration) for series in everything]),
            (TTFT, [(series.labels, series.ttft) for series in everything]),
            (ITL, [(series.labels, series.itl) for series in everything]),
            (OVERHEAD, [(series.labels, series.overhead) for series in everything]),
            (ESTIMATE, [(exposition.labels(model=model), own) for model, own in self._estimates.items()]),
        ):
            yield exposition.header(shape.name, "histogram", shape.help, openmetrics=openmetrics)
            for labels, histogram in histograms:
                yield histogram.text(labels, openmetrics=openmetrics)

        yield from self.objectives.lines(openmetrics)
        yield from self.decisions.lines(openmetrics)
        yield from self._endpoints.lines(openmetrics)

        name = "llmgate_tokens_total"
        yield exposition.header(
            name, "counter", "Tokens of finished requests; cached ones are a part of prompt.", openmetrics=openmetrics
        )
        for series in everything:
            for kind, tokens in (
                ("prompt", series.prompt),
                ("cached", series.cached),
                ("completion", series.completion),
            ):
                if tokens is not None:
                    yield f'{name}{{{series.labels},kind="{kind}"}} {tokens}\n'

        name = "llmgate_expected_cached_tokens_total"
        yield exposition.header(
            name, "counter", "Prompt tokens that routing thought cached, where the engine tells how many were.",
            openmetrics=openmetrics,
        )  # fmt: skip
        for series in everything:
            if series.cached is not None:
                yield f"{name}{{{series.labels}}} {series.expected_cached}\n"

        name = "llmgate_prefix_hit_ratio"
        yield exposition.header(
            name, "gauge", "Cached part of prompts as the engine reports it, recent ones first.",
            openmetrics=openmetrics,
        )  # fmt: skip
        for series in everything:
            if (ratio := series.hits.ratio) is not None:
                yield f"{name}{{{series.labels}}} {ratio}\n"

        name = "llmgate_retries_total"
        yield exposition.header(
            name, "counter", "Attempts that failed and were tried again elsewhere.", openmetrics=openmetrics
        )
        for (endpoint, reason), count in tuple(self._retries.items()):
            yield f"{name}{{{exposition.labels(endpoint=endpoint, reason=reason)}}} {count}\n"

        name = "llmgate_rejected_total"
        yield exposition.header(
            name, "counter", "Requests that the gateway answered itself, by reason.", openmetrics=openmetrics
        )
        for reason, count in tuple(self._rejected.items()):
            yield f"{name}{{{exposition.labels(reason=reason)}}} {count}\n"

        name = "llmgate_reloads_total"
        yield exposition.header(
            name, "counter", "Reloads of the configuration, by what became of them.", openmetrics=openmetrics
        )
        for result, count in tuple(self._reloads.items()):
            yield f"{name}{{{exposition.labels(result=result)}}} {count}\n"
