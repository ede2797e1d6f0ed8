"""What is promised of a request's times and what is predicted of them: data, and the comparison of the two."""

from __future__ import annotations

from math import inf
from typing import NamedTuple


class Slo(NamedTuple):
    """Targets of one request, in seconds; inf is none."""

    ttft: float = inf  # from its arrival to the first byte of its answer
    tpot: float = inf  # mean time between tokens after the first


class Prediction(NamedTuple):
    """What a policy expects of one endpoint for one request, in seconds."""

    ttft: float  # from the decision to the first token: work ahead, and the part of the prompt that is not cached
    tpot: float  # a decode step of the batch that it joins
    room: bool = True  # whether the KV cache has room for the prompt now; if not, the wait for it is in `ttft`

    def misses(self, slo: Slo) -> bool:
        return self.ttft > slo.ttft or self.tpot > slo.tpot
