"""How far the model is from what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.sim_validation.measurement import Floats, Timings

STATISTICS: dict[str, Callable[[Floats], float]] = {
    "mean": lambda values: float(values.mean()),
    "p50": lambda values: float(np.percentile(values, 50)),
    "p99": lambda values: float(np.percentile(values, 99)),
}


def score(model: Timings, measured: Timings, requests: slice) -> dict[str, Any]:
    """For ttft, tpot and e2e: mean, p50, p99 of both (s) and the relative error, and the mean of the relative errors
    request by request; for the gauges, the mean absolute difference and the mean measured."""
    result: dict[str, Any] = {}
    for name in ("ttft", "tpot", "e2e"):
        mine, theirs = getattr(model, name)[requests], getattr(measured, name)[requests]
        result[name] = {
            statistic: {"model": of(mine), "measured": of(theirs), "error": of(mine) / of(theirs) - 1}
            for statistic, of in STATISTICS.items()
        }
        result[name]["mean_error_by_request"] = float(np.abs(mine / theirs - 1).mean())
    for name in ("running", "waiting"):
        mine, theirs = getattr(model, name), getattr(measured, name)
        if theirs.size:
            result[name] = {"difference": float(np.abs(mine - theirs).mean()), "measured": float(theirs.mean())}
    return result
