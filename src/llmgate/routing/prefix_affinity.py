from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest
from llmgate.routing.limits import saturated

OUT_OF_BOUND = 1e12
"""Added to the cost of an endpoint whose load is out of bound; far above any token count."""


@dataclass
class PrefixAffinity(Router):
    """The endpoint that has seen most of this prompt, unless it is too busy for that to pay.

    The load of an endpoint is its outstanding tokens plus those booked lately (Load.recent_tokens), over its weight.
    The endpoint with the longest match is taken while its load is within

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
        endpoints, cached, now = candidates
        loads = [
            (load.prefill_tokens + load.decode_tokens + load.recent_tokens) / endpoint.weight
            for endpoint in endpoints
            for load in (endpoint.load,)
        ]
        scale = 1.0 / (1.0 + sum(loads))
        prompt = request.prompt_tokens
        full = [
            index
            for index, endpoint in enumerate(endpoints)
            if endpoint.metrics is not None and saturated(endpoint, self.capacity_share, request, now)
        ]
        if len(full) == len(endpoints):
            full = []  # nowhere is room: then the cached tokens are all that can be saved
        if not full and cached.count(cached[0]) == len(cached):
            left = prompt - cached[0]
            return [left + load * scale for load in loads]  # equal matches: the load decides
        least, lost = self._least_loaded(loads, cached, full)
        bound, patience = least * (1.0 + self.relative), self.patience
        lost_bound = bound - patience * lost
        costs = [
            prompt - held + load * scale
            if load <= bound or load <= lost_bound + patience * held
            else OUT_OF_BOUND + load
            for load, held in zip(loads, cached, strict=True)
        ]
        for index in full:
            costs[index] = OUT_OF_BOUND + loads[index]
        return costs

    def _least_loaded(self, loads: list[float], cached: Sequence[int], full: list[int]) -> tuple[float, int]:
        """The least load, and the prompt tokens held there; of endpoints with room, if there are any."""
        if full:
            with_room = [index for index in range(len(loads)) if index not in full]
            loads = [loads[index] for index in with_room]
            cached = [cached[index] for index in with_room]
        least = min(loads)
        if loads.count(least) == 1:
            return least, cached[loads.index(least)]
        return least, max(held for load, held in zip(loads, cached, strict=True) if load == least)
