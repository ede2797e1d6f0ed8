"""What was predicted and promised for a request, held against what came of it."""

from __future__ import annotations

from math import inf

from llmgate.core.explain import Explanation
from llmgate.core.slo import Slo
from llmgate.core.types import TerminationCause
from llmgate.gateway.exchange import Exchange
from llmgate.telemetry.objectives import Objectives


def compare(exchange: Exchange, explanation: Explanation, decided_at: float, now: float, counts: Objectives) -> None:
    """At the end of a request, `now`, whose last attempt was `decided_at`. Only streams tell when their tokens came."""
    first = exchange.first_byte if exchange.meter is not None and _good(exchange) else None
    tpot = _tpot(exchange, now)
    if first is not None:
        explanation.observed_ttft = first - decided_at
    explanation.observed_tpot = tpot
    predicted, request = explanation.predicted, exchange.request
    if predicted is not None and exchange.endpoint is not None:
        name = exchange.endpoint.name
        if explanation.observed_ttft:
            counts.ttft_predicted(request.model, name, predicted.ttft / explanation.observed_ttft)
        if tpot:
            counts.tpot_predicted(request.model, name, predicted.tpot / tpot)
    if request.slo is not None and request.stream:
        _attain(exchange, request.slo, first, tpot, now, counts)


def _attain(
    exchange: Exchange, slo: Slo, first: float | None, tpot: float | None, now: float, counts: Objectives
) -> None:
    """A client's own mistake and its leaving say nothing about the service, unless it had waited for too long."""
    model = exchange.request.model
    failed = exchange.status >= 500 or exchange.cause not in (TerminationCause.COMPLETED, TerminationCause.CLIENT_GONE)
    if slo.ttft < inf:
        waited = (now if first is None else first) - exchange.arrived
        if first is not None:
            counts.slo_ended(model, "ttft", waited <= slo.ttft)
        elif failed or (exchange.cause is TerminationCause.CLIENT_GONE and waited > slo.ttft):
            counts.slo_ended(model, "ttft", False)
    if slo.tpot < inf:
        if tpot is not None:
            counts.slo_ended(model, "tpot", tpot <= slo.tpot)
        elif failed:
            counts.slo_ended(model, "tpot", False)


def _good(exchange: Exchange) -> bool:
    """A client that left is noted as an error of its own, whatever the engine had answered by then."""
    return exchange.status < 400 or exchange.cause is TerminationCause.CLIENT_GONE


def _tpot(exchange: Exchange, now: float) -> float | None:
    """Seconds from token to token of a stream that came to its end."""
    usage, first = exchange.usage, exchange.first_byte
    if exchange.cause is not TerminationCause.COMPLETED or exchange.meter is None or first is None or usage is None:
        return None
    return (now - first) / (usage.completion_tokens - 1) if usage.completion_tokens > 1 else None
