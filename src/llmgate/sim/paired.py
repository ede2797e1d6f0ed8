"""Whether two policies differ, or their seeds: intervals of paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 0.975 quantile of Student's t with 1, 2 … 30 degrees of freedom: any table of it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of (policy - baseline) over seeds, and its 95 % interval. NaN bounds: one seed tells nothing of spread."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0.0 or self.high < 0.0


def difference(policy: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Of one figure; both by seed, in the same order. Pairing takes out what a seed does to both alike."""
    each = [a - b for a, b in zip(policy, baseline, strict=True)]
    mean = statistics.fmean(each)
    if len(each) < 2:
        return Difference(mean, math.nan, math.nan)
    half = t_quantile(len(each) - 1) * statistics.stdev(each) / math.sqrt(len(each))
    return Difference(mean, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """The 0.975 quantile of Student's t. Above 30 degrees by the first two terms of its expansion about the normal
    quantile z (Abramowitz & Stegun 26.7.5): z + (z³+z)/4n + (5z⁵+16z³+3z)/96n²; there to within 0.001."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
