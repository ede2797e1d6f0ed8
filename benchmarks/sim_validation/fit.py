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

START = {"prefill_step_s": 3e-3, "prefill_kv_token_s": 3e-8}
"""Where the search begins for constants that the roofline does not have (s)."""

PRIOR, GUESSED = 0.5, 0.1
"""How strongly the search holds on to where it began, in residuals by unit of logarithm: constants that the requests
do not tell apart stay as the roofline has them. GUESSED is for those that it does not have."""

FAR = 0.7
"""Logarithms of errors count at most this much: one request that just missed a step is not to lead."""


def fit(
    profile: EngineProfile, workload: Workload, measured: Timings, count: int, names: Sequence[str] = CONSTANTS
) -> EngineProfile:
    """Least squares over the logarithms of the constants: relative errors of TTFT, TPOT and E2E of the first `count`
    requests. The later ones are simulated too, since they take their part of the steps; their times are not looked at.
    """
    start = np.log([getattr(profile, name) or START[name] for name in names])

    hold = np.array([GUESSED if name in START else PRIOR for name in names])

    def made(logs: Floats) -> EngineProfile:
        return replace(profile, **dict(zip(names, np.exp(logs).tolist(), strict=True)))

    def errors(logs: Floats, metrics: Sequence[str]) -> Floats:
        model = replay(made(logs), workload, np.zeros(0))
        far = [np.log(getattr(model, name)[:count] / getattr(measured, name)[:count]) for name in metrics]
        return np.concatenate([np.clip(one, -FAR, FAR) for one in far] + [hold * (logs - start)])

    # TPOT first: it changes smoothly, where a wait for a place jumps by whole steps.
    near = least_squares(lambda logs: errors(logs, ("tpot",)), start)
    return made(least_squares(lambda logs: errors(logs, ("ttft", "tpot", "e2e")), near))


def least_squares(errors: Callable[[Floats], Floats], start: Floats, *, rounds: int = 12, step: float = 0.1) -> Floats:
    """Levenberg and Marquardt's method with differences for derivatives: queues make the errors jump, so the
    differences are wide."""
    at: Floats = start
    damping = 1e-2
    here = errors(at)
    for _ in range(rounds):
        slope = np.empty((here.size, at.size))
        for n in range(at.size):
            moved = np.zeros(at.size)
            moved[n] = step
            slope[:, n] = (errors(at + moved) - errors(at - moved)) / (2 * step)
        square = slope.T @ slope
        for _ in range(6):
            change = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -slope.T @ here)
            there = errors(at + np.clip(change, -1, 1))
            if there @ there < here @ here:
                break
            damping *= 5
        else:
            return at
        gain = 1 - (there @ there) / (here @ here)
        at, here, damping = at + np.clip(change, -1, 1), there, damping / 5
        if gain < 1e-3:
            return at
    return at
