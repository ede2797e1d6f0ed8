"""The constants of a profile that fit measured times best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.sim_validation.measurement import Floats, Timings, Workload
from benchmarks.sim_validation.replay import replay
from llmgate.engines.profile import EngineProfile

CONSTANTS = ("step_s", "sequence_s", "kv_token_s", "prefill_token_s", "prefill_step_s", "prefill_kv_token_s")
"""The quadratic part stays as the roofline has it: prompts of 4,000 tokens do not show it."""

START = {"prefill_step_s": 5e-3, "prefill_kv_token_s": 5e-8}
"""Where the search begins for constants that the roofline does not have."""

NOTHING = np.zeros(0)


def fit(profile: EngineProfile, workload: Workload, measured: Timings, count: int) -> EngineProfile:
    """Least squares over the logarithms of the constants: relative errors of TTFT, TPOT and E2E of the first `count`
    requests. The later ones are simulated too, since they take their part of the steps; their times are not looked at.
    """

    def errors(logs: Floats, names: Sequence[str]) -> Floats:
        model = replay(_with(profile, logs), workload, NOTHING)
        return np.concatenate([np.log(getattr(model, n)[:count] / getattr(measured, n)[:count]) for n in names])

    start = np.log([getattr(profile, name) or START[name] for name in CONSTANTS])
    # TPOT first: it changes smoothly, where a wait for a place jumps by whole steps.
    near = least_squares(lambda logs: errors(logs, ("tpot",)), start)
    return _with(profile, least_squares(lambda logs: errors(logs, ("ttft", "tpot", "e2e")), near))


def _with(profile: EngineProfile, logs: Sequence[float] | Floats) -> EngineProfile:
    return replace(profile, **dict(zip(CONSTANTS, np.exp(logs).tolist(), strict=True)))


def least_squares(errors: Callable[[Floats], Floats], start: Floats, *, rounds: int = 25, step: float = 0.1) -> Floats:
    """Levenberg and Marquardt's method with differences for derivatives: queues make the errors jump, so the
    differences are wide. Errors count at most 1 each way, so that one that jumps far does not lead."""
    at, damping = start, 1e-2
    here = np.clip(errors(at), -1, 1)
    for _ in range(rounds):
        slope = np.empty((here.size, at.size))
        for n in range(at.size):
            moved = np.zeros(at.size)
            moved[n] = step
            slope[:, n] = (np.clip(errors(at + moved), -1, 1) - np.clip(errors(at - moved), -1, 1)) / (2 * step)
        square = slope.T @ slope
        change = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -slope.T @ here)
        there = np.clip(errors(at + np.clip(change, -1, 1)), -1, 1)
        if there @ there < here @ here:
            better = 1 - (there @ there) / (here @ here)
            at, here, damping = at + np.clip(change, -1, 1), there, damping / 3
            if better < 1e-5:
                break
        else:
            damping *= 4
            if damping > 1e4:
                break
    return at
