from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest
from llmgate.routing.limits import LAST_RESORT


@dataclass
class PowerOfTwo(Router):
    """Of two endpoints drawn by chance, the one with fewer outstanding tokens for its weight, counting this request's.

    They are drawn in proportion to weight: drawn alike, no endpoint could get more than 2 of n requests. The cost of
    one that was not drawn is above that of those that were, so that a decision shows all of them.
    """

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, own = candidates.endpoints, request.tokens
        costs = [(endpoint.load.tokens + own) / endpoint.weight for endpoint in endpoints]
        if len(costs) <= 2:
            return costs
        drawn = two_of([endpoint.weight for endpoint in endpoints], self.random)
        return [cost if index in drawn else cost + LAST_RESORT for index, cost in enumerate(costs)]


def two_of(weights: Sequence[float], random: Random) -> tuple[int, int]:
    """Two different indices of at least two `weights` above 0: the first in proportion to all of them, the second to
    what is left then."""
    sums = list(accumulate(weights))
    last = len(sums) - 1
    first = min(bisect_right(sums, random.random() * sums[-1]), last)
    point = random.random() * (sums[-1] - weights[first])
    if point >= sums[first] - weights[first]:
        point += weights[first]  # over the gap that the first leaves
    second = min(bisect_right(sums, point), last)
    if second == first:  # by rounding, at the edge of the gap
        second = first - 1 if first else 1
    return first, second
