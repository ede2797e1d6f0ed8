"""What was predicted of a request and promised to it, held against what came of it, for the metrics."""

from __future__ import annotations

from math import inf

from llmgate.core.explain import Explanation
from llmgate.core.slo import Slo
from llmgate.core.types import TerminationCause
from llmgate.gateway.exchange import Exchange
from llmgate.telemetry.objectives import Objectives


def compare(exchange: Exchange, explanation: Explanation, now: float, counts: Objectives) -> None:
    """At the end of a request, `now`; `explanation` is that of its last attempt. Only streams tell when their tokens
    came: other requests are not counted."""
    predicted, request, endpoint = explanation.predicted, exchange.request, exchange.endpoint
    if predicted is not None and endpoint is not None:
        if ttft := explanation.observed_ttft:
            counts.ttft_predicted(request.model, endpoint.name, predicted.ttft / ttft)
        if tpot := explanation.observed_tpot:
            counts.tpot_predicted(request.model, endpoint.name, predicted.tpot / tpot)
    if request.slo is not None and request.stream:
        _attain(exchange, request.slo, explanation, now, counts)


def _attain(exchange: Exchange, slo: Slo, explanation: Explanation, now: float, counts: Objectives) -> None:
    """What failed has missed its targets. A client's own mistake and its leaving say nothing about the service, unless
    it had waited for longer than its target."""
    model, gone = exchange.request.model, exchange.cause is TerminationCause.CLIENT_GONE
    failed = exchange.status >= 500 or (exchange.cause is not TerminationCause.COMPLETED and not gone)
    if slo.ttft < inf:
        first = exchange.first_byte if explanation.observed_ttft is not None else None
        waited = (now if first is None else first) - exchange.arrived
        if first is not None:
            counts.slo_ended(model, "ttft", waited <= slo.ttft)
        elif failed or (gone and waited > slo.ttft):
            counts.slo_ended(model, "ttft", False)
    if slo.tpot < inf:
        if explanation.observed_tpot is not None:
            counts.slo_ended(model, "tpot", explanation.observed_tpot <= slo.tpot)
        elif failed:
            counts.slo_ended(model, "tpot", False)
