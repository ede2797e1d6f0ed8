from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest

OUT_OF_BOUND = 1e12
"""Added to the cost of an endpoint whose load is out of bound; far above any token count."""


@dataclass
class PrefixAffinity(Router):
    """The endpoint that has seen most of this prompt, unless it is too busy for that to pay.

    The load of an endpoint is its outstanding tokens plus those booked lately (`Load.recent`), over its weight. The
    endpoint with the longest match is taken while its load is within

        least load × (1 + `relative`)  +  `patience` × the prompt tokens it would save over the least loaded endpoint

    and while it is below `capacity_share` of its KV cache, where that is known. So a lone conversation stays even
    though its endpoint is the busiest, and a prefix that everyone shares spreads: it outruns the bound on its first
    endpoint, then on the second, until all have it and it no longer tells them apart. Without a match, or among equal
    matches, the least loaded endpoint is taken.

    The cost is the prompt tokens left to compute, plus a fraction below 1 by which the load decides between equals.
    """

    relative: float = 0.5
    patience: float = 4.0
    capacity_share: float = 0.85

    needs_prefix = True

    def __post_init__(self) -> None:
        for name in ("relative", "patience"):
            if not 0.0 <= getattr(self, name) < 1e6:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0.0 < self.capacity_share <= 1.0:
            raise ValueError(f"capacity_share must be above 0 and at most 1, not {self.capacity_share}")

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, cached, now = candidates.endpoints, candidates.cached_tokens, candidates.now
        loads = [(endpoint.load.tokens + endpoint.load.recent(now)) / endpoint.weight for endpoint in endpoints]
        saturated = [self._saturated(endpoint, request, now) for endpoint in endpoints]
        open_to_all = [index for index, full in enumerate(saturated) if not full] or range(len(endpoints))
        least = min(open_to_all, key=lambda index: (loads[index], -cached[index]))
        base, kept = loads[least] * (1.0 + self.relative), cached[least]
        scale = 1.0 / (1.0 + sum(loads))
        costs = []
        for index, load in enumerate(loads):
            cost = request.prompt_tokens - cached[index] + load * scale
            if saturated[index] or load > base + self.patience * max(cached[index] - kept, 0):
                cost = OUT_OF_BOUND + load
            costs.append(cost)
        return costs

    def _saturated(self, endpoint: Endpoint, request: InferenceRequest, now: float) -> bool:
        metrics = endpoint.metrics
        if metrics is None:
            return False
        if metrics.kv_usage is not None and metrics.kv_usage > self.capacity_share and metrics.fresh(now):
            return True
        capacity = metrics.kv_capacity_tokens  # a fact of the engine's start: it does not go stale
        return capacity is not None and endpoint.load.tokens + request.tokens > self.capacity_share * capacity
