"""Traces by OpenTelemetry: whose they are, which are recorded, and how they get to a collector.

OpenTelemetry is an extra, and imported only where traces are wanted. Whether a request is recorded is decided here
before its SDK is asked for anything, so that one that is not costs a random number and a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED, OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from llmgate import __version__
from llmgate.wire.headers import Header
from llmgate.wire.traceparent import TRACE, TRACEPARENT, parse_traceparent, without_trace

logger = logging.getLogger("llmgate.tracing")

Attributes = Mapping[str, str | int | float | bool]

MOST_WAITING = 2048
"""Spans that may wait for the collector, OpenTelemetry's default; those that come then are dropped and counted."""
AT_ONCE = 32
"""Spans that are exported in one go. The exporter holds Python's lock while it encodes them, some 50 µs a span, and the
event loop waits: with OpenTelemetry's 512 for up to 13 ms, with these for 2 to 4 (`python -m benchmarks.tracing`)."""
CLOSE_SECONDS = 3.0
"""How long the end of the process may wait for the last spans."""


class Trace:
    """One request's part of a trace that is recorded: a server span, and a client span for each attempt."""

    __slots__ = ("_attempt", "_span", "_tracing", "trace_id")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._attempt: Span | None = None
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def attempt(self, name: str, attributes: Attributes) -> bytes:
        """The request goes to an engine, which gets this `traceparent`."""
        context = set_span_in_context(self._span)
        self._attempt = attempt = self._tracing.tracer.start_span(name, context, SpanKind.CLIENT, dict(attributes))
        mine = attempt.get_span_context()
        return b"00-%032x-%016x-01" % (mine.trace_id, mine.span_id)

    def attempt_ended(self, attributes: Attributes, error: str | None) -> None:
        """`error`: what kind it was."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._finish(attempt, attributes, error)

    def end(self, name: str, attributes: Attributes, error: str | None, first_token: float | None) -> None:
        """`first_token`: seconds from its begin."""
        span = self._span
        span.update_name(name)
        if first_token is not None and isinstance(span, ReadableSpan) and span.start_time is not None:
            span.add_event("first_token", timestamp=span.start_time + int(first_token * 1e9))
        self._finish(span, attributes, error)

    def _finish(self, span: Span, attributes: Attributes, error: str | None) -> None:
        span.set_attributes(dict(attributes))
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
        self._tracing.hand_over(span)


class Tracing(Collector):
    """Where spans go, and a metric of what became of them. The exporter works in a thread of its own; nothing in here
    waits for it but `close`.

    `endpoint` is a collector's base URL, to which /v1/traces is added; empty: what OTEL_EXPORTER_OTLP_ENDPOINT says, or
    else http://localhost:4318. `sample` is the part of those requests that is recorded whose client says nothing of it;
    None: what OTEL_TRACES_SAMPLER says, or else all.
    """

    def __init__(
        self,
        *,
        endpoint: str = "",
        headers: Mapping[str, str] | None = None,
        sample: float | None = None,
        service: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        exporter = OTLPSpanExporter(endpoint=url, headers=dict(headers or {}) or None)
        named = {SERVICE_NAME: service} if service else {}
        resource = Resource.create({SERVICE_VERSION: __version__, **(attributes or {}), **named})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # what it says if nobody does
            resource = resource.merge(Resource({SERVICE_NAME: "llmgate"}))
        self.counts = {"exported": 0, "failed": 0, "dropped": 0}
        self._handed = 0
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)  # `begin` has decided before
        self._provider.add_span_processor(
            BatchSpanProcessor(_Told(exporter, self.counts), max_queue_size=MOST_WAITING, max_export_batch_size=AT_ONCE)
        )
        self.tracer = self._provider.get_tracer("llmgate", __version__)
        self._sample = sample_by_environment() if sample is None else sample
        self._random = Random()
        self._run_id = self._random.getrandbits(64)  # ids of what is not recorded need to differ, and no more
        self._numbers = count(1)

    def begin(self, headers: list[Header]) -> Trace | None:
        """Of a client's request with these headers, which are to go to the engine. None if it is not recorded; then
        they tell the engine so, which would begin a trace of its own else."""
        given = [each for each in headers if each[0] in TRACE]
        parent = parse_traceparent([value for name, value in given if name == TRACEPARENT]) if given else None
        if parent is None:
            if given:
                headers[:] = without_trace(headers)
            if self._random.random() < self._sample:
                return Trace(self, self.tracer.start_span("request", kind=SpanKind.SERVER))
            number = next(self._numbers)
            headers.append((TRACEPARENT, b"00-%016x%016x-%016x-00" % (self._run_id, number, number)))
            return None
        if not parent.sampled:
            return None
        remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(1))
        context = set_span_in_context(NonRecordingSpan(remote))
        return Trace(self, self.tracer.start_span("request", context, SpanKind.SERVER))

    @property
    def waiting(self) -> int:
        """Spans that have ended and that the collector has not taken yet."""
        return self._handed - self.counts["exported"] - self.counts["failed"]

    def hand_over(self, span: Span) -> None:
        """It has ended, and is exported unless too many are waiting."""
        if self.waiting >= MOST_WAITING:
            self.counts["dropped"] += 1
            return
        self._handed += 1
        span.end()

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "llmgate_trace_spans", "Spans by what became of them; dropped: too many were waiting.", labels=("result",)
        )
        for result, spans in self.counts.items():
            family.add_metric((result,), spans)
        yield family

    async def close(self) -> None:
        """Export what is waiting, for CLOSE_SECONDS at most."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # it took too long: the loop is closed
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="llmgate-tracing-end", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), CLOSE_SECONDS)
        except TimeoutError:
            logger.warning("the last spans did not reach the collector within %g s", CLOSE_SECONDS)


def is_disabled() -> bool:
    """By OpenTelemetry's own switch, which its SDK obeys too."""
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def sample_by_environment() -> float:
    """The part of requests that is recorded by the standard variables, for those that no client has decided on."""
    sampler = os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower().removeprefix("parentbased_")
    if sampler == "always_off":
        return 0.0
    if sampler == "traceidratio":
        given = os.environ.get(OTEL_TRACES_SAMPLER_ARG, "")
        with contextlib.suppress(ValueError):
            if 0 <= (ratio := float(given)) <= 1:
                return ratio
        logger.warning("%s=%r is no number from 0 to 1: every request is traced", OTEL_TRACES_SAMPLER_ARG, given)
    elif sampler not in ("", "always_on"):
        logger.warning("%s=%r is not known here: every request is traced", OTEL_TRACES_SAMPLER, sampler)
    return 1.0


class _Told(SpanExporter):
    """Exports by another, counts, and tells of a collector that cannot be reached once, and once when it can again:
    the library would do so for each attempt. Called in the exporter's thread."""

    def __init__(self, exporter: SpanExporter, counts: dict[str, int]) -> None:
        self._exporter = exporter
        self._counts = counts
        self._failing = False
        self._last = _LastMessage()
        theirs = logging.getLogger("opentelemetry")
        theirs.handlers, theirs.propagate = [self._last], False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # what it does not catch itself must not end its thread
            self._last.text, result = type(error).__name__, SpanExportResult.FAILURE
        good = result is SpanExportResult.SUCCESS
        self._counts["exported" if good else "failed"] += len(spans)
        if good and self._failing:
            logger.info("spans reach the collector again")
        elif not good and not self._failing:
            logger.warning("spans do not reach the collector: %s", self._last.text or "no reason was given")
        self._failing = not good
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _LastMessage(logging.Handler):
    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
