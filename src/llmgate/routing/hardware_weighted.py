from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest


@dataclass
class HardwareWeighted(Router):
    """Fewest outstanding tokens for what the hardware can do, counting this request's: nothing but tokens and weights.

    Under load, each endpoint's share of the tokens in flight is its share of the weights. Weights come from the
    configuration, or from the GPU's name and number (core/hardware.py).
    """

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        own = request.tokens
        return [(endpoint.load.tokens + own) / endpoint.weight for endpoint in candidates.endpoints]
