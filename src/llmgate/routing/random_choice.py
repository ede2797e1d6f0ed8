from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest


@dataclass
class RandomChoice(Router):
    """By chance, in proportion to weight; blind to load.

    The costs are the finishing times of a race: exponentially distributed with the weight as rate, so that each
    endpoint comes first with the probability of its share of the weight.
    """

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        draw = self.random.random
        return [-log(1.0 - draw()) / endpoint.weight for endpoint in candidates.endpoints]
