from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest


@dataclass
class LeastConnections(Router):
    """Fewest requests in flight, counting this one, for the endpoint's weight; blind to their size."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [(endpoint.load.requests + 1) / endpoint.weight for endpoint in candidates.endpoints]
