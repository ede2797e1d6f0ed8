"""What is promised of a request's times and what is predicted of them: data, and the comparison of the two."""

from __future__ import annotations

from math import exp, inf, log
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
    raw: tuple[float, float] | None = None  # the two times before they were corrected by what came of earlier ones

    def misses(self, slo: Slo) -> bool:
        return self.ttft > slo.ttft or self.tpot > slo.tpot


GAIN = 0.05
"""Weight of the latest observation in a correction: about the last 20 count; fewer count alike."""

PRIOR = 3
"""So many observations count the belief, to begin with, that nothing is to be corrected."""

MOST = 2.0
"""Natural logarithm of the most that one observation is taken to be off, a factor of 7: the odd stall is no trend."""


class Correction:
    """What predictions of one kind are to be multiplied by, learnt from what came of them: the geometric mean of
    observed / predicted, so that half of what comes is later and half is sooner."""

    __slots__ = ("_log", "_seen", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._log = 0.0
        self._seen = 0

    def learn(self, predicted: float, observed: float) -> None:
        """`predicted` is without the correction. What is not above 0 is ignored."""
        if not (predicted > 0.0 and observed > 0.0):
            return
        self._seen += 1
        off = min(max(log(observed / predicted), -MOST), MOST)
        self._log += max(GAIN, 1.0 / (self._seen + PRIOR)) * (off - self._log)
        self.factor = exp(self._log)
