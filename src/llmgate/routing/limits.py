"""Checks that several policies make."""

from __future__ import annotations

import math

from llmgate.core.types import Endpoint, InferenceRequest

LAST_RESORT = 1e12
"""Added to the cost of an endpoint that should be used only when all are like it; far above any token count."""


def check(name: str, value: float, *, least: float = 0.0, most: float, above: bool = False) -> None:
    """ValueError unless the option's `value` is between `least` (or, with `above`, anything above it) and `most`."""
    if not (least < value if above else least <= value) or not value <= most:
        low = f"above {least:g}" if above else f"{least:g} or more"
        high = "" if math.isinf(most) else f" and at most {most:g}"
        raise ValueError(f"{name} must be {low}{high}, not {value}")


def check_whole(name: str, value: float, *, least: int, most: int) -> None:
    """ValueError unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value}")


def saturated(endpoint: Endpoint, share: float, request: InferenceRequest, now: float) -> bool:
    """Whether the KV cache is, or with `request` would be, used to more than `share` (0..1) of it: by the engine's own
    current reading, or by what the requests in flight hold, where its size is known."""
    metrics = endpoint.metrics
    if metrics is None:
        return False
    usage, capacity = metrics.kv_usage, metrics.kv_capacity_tokens
    if usage is not None and usage > share and metrics.fresh(now):
        return True
    # the capacity is a fact of the engine's start: it does not go stale
    return capacity is not None and endpoint.load.kv_tokens + request.tokens > share * capacity


def kv_full(endpoint: Endpoint, limit: float, now: float) -> bool:
    """Whether the engine's own reading of its KV cache (a share, 0..1) is current and above `limit`."""
    metrics = endpoint.metrics
    return metrics is not None and metrics.kv_usage is not None and metrics.kv_usage > limit and metrics.fresh(now)
