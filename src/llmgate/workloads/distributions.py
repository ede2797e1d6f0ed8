"""Lengths and choices of synthetic loads."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from random import Random

from llmgate.workloads.lines import MAX_TOKENS
from llmgate.workloads.options import check


def lengths(random: Random, option: str, mean: float, spread: float) -> Callable[[], int]:
    """Token counts, at least 1: log-normal with this mean and coefficient of variation; `spread` 0 is always the mean.

    Log-normal since recorded prompt and answer lengths are long-tailed: of the Azure conversation trace of 2023 the
    coefficients of variation are 1.0 (prompts) and 0.8 (answers).
    """
    check(1 <= mean <= MAX_TOKENS, option, f"must be from 1 to {MAX_TOKENS}")
    check(0 <= spread <= 10, "spread", "must be from 0 to 10")
    variance = math.log1p(spread**2)
    mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    return lambda: min(MAX_TOKENS, max(1, round(random.lognormvariate(mu, sigma))))


def zipf(random: Random, count: int, skew: float) -> Callable[[], int]:
    """Numbers below `count`, number k with weight 1/(k+1)^`skew`: 0 is uniform, 1 the classic law."""
    weights = list(accumulate((k + 1) ** -skew for k in range(count)))
    numbers = range(count)
    return lambda: random.choices(numbers, cum_weights=weights)[0]
