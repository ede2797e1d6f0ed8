from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest
from llmgate.routing.limits import LAST_RESORT, kv_full


@dataclass
class TokenAware(Router):
    """Fewest outstanding tokens for the endpoint's weight, counting this request's.

    Outstanding are the prompt tokens not yet prefilled and the output tokens still expected of all requests in flight.
    An endpoint whose fresh KV-cache usage is above `kv_limit` (a share, 0..1) comes last: one more request there would
    make the engine preempt others.
    """

    kv_limit: float = 0.9
    tie_margin: float = 0.02  # estimates are no better than this

    def __post_init__(self) -> None:
        if not 0.0 < self.kv_limit <= 1.0:
            raise ValueError(f"kv_limit must be above 0 and at most 1, not {self.kv_limit}")
        if not 0.0 <= self.tie_margin <= 1.0:
            raise ValueError(f"tie_margin must be between 0 and 1, not {self.tie_margin}")

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        own, now = request.tokens, candidates.now
        full = [kv_full(endpoint, self.kv_limit, now) for endpoint in candidates.endpoints]
        last_resort = 0.0 if all(full) else LAST_RESORT  # beside it no difference of loads would count
        return [
            (endpoint.load.tokens + own) / endpoint.weight + last_resort * is_full
            for endpoint, is_full in zip(candidates.endpoints, full, strict=True)
        ]
