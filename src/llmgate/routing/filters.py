"""The built-in filters of profiles: which endpoints may be considered at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Filter
from llmgate.core.types import InferenceRequest
from llmgate.routing.limits import check, kv_full


@dataclass
class KvRoom(Filter):
    """Endpoints whose KV cache is not fuller than `limit` (a share, 0..1), by their own fresh reading."""

    limit: float = 0.9

    def __post_init__(self) -> None:
        check("limit", self.limit, above=True, most=1)

    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        return [not kv_full(endpoint, self.limit, candidates.now) for endpoint in candidates.endpoints]


@dataclass
class ShortQueue(Filter):
    """Endpoints where no more than `limit` requests wait in the engine's own queue, by their own fresh reading."""

    limit: float = 5.0

    def __post_init__(self) -> None:
        check("limit", self.limit, most=1e6)

    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        now = candidates.now
        return [
            metrics is None or metrics.waiting is None or metrics.waiting <= self.limit or not metrics.fresh(now)
            for metrics in (endpoint.metrics for endpoint in candidates.endpoints)
        ]


@dataclass
class LoadWithin(Filter):
    """Endpoints whose outstanding tokens for their weight are at most least × (1 + `relative`) + `tokens`."""

    relative: float = 0.5
    tokens: float = 4096.0

    def __post_init__(self) -> None:
        check("relative", self.relative, most=1e6)
        check("tokens", self.tokens, most=1e9)

    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        loads = [endpoint.load.tokens / endpoint.weight for endpoint in candidates.endpoints]
        bound = min(loads) * (1.0 + self.relative) + self.tokens
        return [load <= bound for load in loads]


@dataclass
class Labels(Filter):
    """Endpoints that have all of `labels`, with these values."""

    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stated = self.labels
        if not isinstance(stated, Mapping) or not stated:
            raise ValueError("labels must be a mapping of at least one name to a value, as in {tier: latency}")
        for name, value in stated.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ValueError(f"labels must be text, not {name!r}: {value!r}; put it in quotes if it is meant so")

    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        wanted = self.labels.items()
        return [wanted <= endpoint.spec.labels.items() for endpoint in candidates.endpoints]


BUILT_IN: Mapping[str, type[Filter]] = {
    "kv-room": KvRoom,
    "short-queue": ShortQueue,
    "load-within": LoadWithin,
    "labels": Labels,
}
