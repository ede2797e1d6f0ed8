"""What a trace says of an exchange. Never a text of the client's or the engine's.

Names are those of OpenTelemetry's semantic conventions for generative AI and HTTP
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/), and llmgate.* for what they have no name for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause
from llmgate.gateway.access import route_of
from llmgate.gateway.exchange import Exchange
from llmgate.upstream.base import Target
from llmgate.wire.headers import Header
from llmgate.wire.kinds import ROUTES
from llmgate.wire.traceparent import with_traceparent

if TYPE_CHECKING:
    from llmgate.telemetry.tracing import Trace

OPERATIONS = {
    Kind.CHAT: "chat",
    Kind.RESPONSES: "chat",
    Kind.MESSAGES: "chat",
    Kind.COMPLETION: "text_completion",
    Kind.GENERATE: "text_completion",
    Kind.EMBEDDING: "embeddings",
}

Attributes = dict[str, str | int | float | bool]


def begin_attempt(
    trace: Trace, exchange: Exchange, endpoint: Endpoint, target: Target, headers: list[Header]
) -> list[Header]:
    """The headers for the engine, which carry the trace on."""
    request = exchange.request
    attributes: Attributes = {
        **_operation(request),
        **_address(target),
        **_provider(endpoint),
        "http.request.method": "POST",
        "llmgate.endpoint": endpoint.name,
    }
    if len(exchange.tried) > 1:
        attributes["http.request.resend_count"] = len(exchange.tried) - 1
    return with_traceparent(headers, trace.attempt(_name(request), attributes))


def end_attempt(trace: Trace, status: int, cause: TerminationCause, failure: str | None) -> None:
    """`status`: 0 if no answer came. `failure`: the code of what broke, if anything did."""
    error: str | None = None
    if status >= 400:
        error = str(status)
    elif cause is not TerminationCause.COMPLETED:
        error = failure or cause._value_
    trace.attempt_ended({"http.response.status_code": status} if status else {}, error)


def end(trace: Trace, exchange: Exchange, now: float) -> None:
    """`now` is the end of the exchange, on the clock of its arrival."""
    request: InferenceRequest | None = getattr(exchange, "request", None)  # not there if it was not understood
    path, usage = route_of(exchange.client.target), exchange.usage
    first = exchange.first_byte if exchange.meter is not None else None  # of a whole answer it tells the end
    attributes: Attributes = {
        "http.request.method": "POST",
        "url.path": path,
        "llmgate.request_id": exchange.id,
        "llmgate.policy": exchange.policy[0],
        "llmgate.attempts": len(exchange.tried),
        "llmgate.duration": now - exchange.arrived,
    }
    if path in ROUTES:
        attributes["http.route"] = path
    if exchange.status:
        attributes["http.response.status_code"] = exchange.status
    if request is not None:
        attributes |= _operation(request) | {
            "gen_ai.request.stream": request.stream,
            "llmgate.prompt_tokens.estimated": request.prompt_tokens,
            "llmgate.output_tokens.expected": request.expected_output_tokens,
            "llmgate.cached_tokens.expected": request.cached_tokens,
        }
        if request.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = request.max_tokens
    if exchange.endpoint is not None:
        attributes |= _provider(exchange.endpoint)
        attributes["llmgate.endpoint"] = exchange.endpoint.name
        attributes["llmgate.queue_time"] = exchange.dispatched - exchange.arrived
    if first is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = first - exchange.arrived
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if usage.cached_tokens is not None:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    cause = exchange.cause
    if cause is not None:
        attributes["llmgate.cause"] = cause._value_
    trace.end(
        _name(request) if request is not None else f"POST {path}" if path in ROUTES else "POST",
        attributes,
        _error(exchange.status, cause),
        None if first is None else first - exchange.arrived,
    )


def _name(request: InferenceRequest) -> str:
    return f"{_operation(request)['gen_ai.operation.name']} {request.model}"


def _operation(request: InferenceRequest) -> Attributes:
    operation = OPERATIONS.get(request.kind) or request.kind._value_
    return {"gen_ai.operation.name": operation, "gen_ai.request.model": request.model}


def _provider(endpoint: Endpoint) -> Attributes:
    return {"gen_ai.provider.name": endpoint.engine} if endpoint.engine else {}


def _address(target: Target) -> Attributes:
    if target.unix_path is not None:
        return {"server.address": target.unix_path}
    return {"server.address": target.host, "server.port": target.port}


def _error(status: int, cause: TerminationCause | None) -> str | None:
    """Of a server span: a client's own mistake is no error of the server's."""
    if status >= 500:
        return str(status)
    if cause in (None, TerminationCause.COMPLETED, TerminationCause.CLIENT_GONE, TerminationCause.REFUSED):
        return None
    return None if 400 <= status < 499 else cause._value_
