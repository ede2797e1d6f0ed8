"""What the access log says of an exchange."""

from __future__ import annotations

from functools import lru_cache

from llmgate.core.types import InferenceRequest
from llmgate.gateway.exchange import Exchange
from llmgate.telemetry.access_log import AccessLog, Entry
from llmgate.wire.headers import find
from llmgate.wire.prefix_keys import prefix_keys

LONGEST_ROUTE = 200


def entry_of(exchange: Exchange, log: AccessLog, now: float) -> Entry:
    """`now` is the end of the exchange, on the clock of its arrival."""
    request: InferenceRequest | None = getattr(exchange, "request", None)  # not there if it was not understood
    client, usage, endpoint = exchange.client, exchange.usage, exchange.endpoint
    arrived, first_byte = exchange.arrived, exchange.first_byte
    duration = now - arrived
    cause = exchange.cause
    return Entry(
        _micro(log.wall_clock() - duration),
        exchange.id,
        route_of(client.target),
        None,
        None if request is None else request.model,
        None if endpoint is None else endpoint.name,
        exchange.policy[0],
        exchange.status,
        cause._value_ if cause is not None else "client_gone" if client.gone else "rejected",
        len(exchange.tried),
        None if request is None else request.stream,
        None if request is None else request.prompt_tokens,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.cached_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else "counted" if usage.counted else "engine",
        None if endpoint is None else _micro(exchange.dispatched - arrived),
        None if first_byte is None else _micro(first_byte - arrived),
        _micro(duration),
        len(client.body),
        client.sent,
        _session(exchange, request, log),
        _prefix(exchange, request, log) if log.prefix_blocks and request is not None else None,
        None if exchange.trace is None else exchange.trace.trace_id,
    )


def _micro(seconds: float) -> float:
    """To the microsecond; `round` takes three times as long."""
    return int(seconds * 1e6) / 1e6


@lru_cache(256)
def route_of(target: bytes) -> str:
    """A query may hold anything, a key among it."""
    path = target if b"?" not in target else target.partition(b"?")[0]
    return path[:LONGEST_ROUTE].decode("ascii", "backslashreplace")


def _session(exchange: Exchange, request: InferenceRequest | None, log: AccessLog) -> str | None:
    if request is not None:
        key = request.session
    else:  # it was not understood, so nobody has looked
        header = find(exchange.client.headers, b"x-session-id")
        key = header.decode("latin-1") if header else None
    return None if key is None else log.session(key)


def _prefix(exchange: Exchange, request: InferenceRequest, log: AccessLog) -> list[str]:
    keys = request.prefix or prefix_keys(request.model, exchange.spec.prompt_of(exchange.fields))
    return log.prefix(keys)
