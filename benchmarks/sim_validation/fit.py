"""The constants of a profile that fit measured times best.

Two fits, each of few constants, since one of all of them finds combinations that fit by chance: what a step costs in
which a prompt is computed, from the first tokens of single such steps; and what a step costs in which none is, from
TPOT and E2E as the model has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.sim_validation.measurement import Floats, Timings, Workload
from benchmarks.sim_validation.replay import replay
from llmgate.engines.profile import EngineProfile

CONSTANTS = ("step_s", "sequence_s", "kv_token_s", "prefill_token_s", "prefill_step_s", "prefill_kv_token_s")
"""The quadratic part stays as the roofline has it: prompts of 4,000 tokens do not show it."""

DECODE = ("step_s", "sequence_s", "kv_token_s")
PRIOR = 0.5
"""How strongly the search holds on to where it began, in residuals by unit of logarithm: constants that the requests
do not tell apart stay as the roofline has them."""

TOGETHER = 2e-3
"""s: first tokens no further apart are of one step."""


@dataclass(frozen=True)
class PromptSteps:
    """base + token · tokens computed + read · tokens of KV cache read, s."""

    base: float
    token: float
    read: float
    read_per_sequence: float  # mean of the sample


def fit(profile: EngineProfile, workload: Workload, measured: Timings, count: int) -> EngineProfile:
    """From the times of the first `count` requests. The later ones are simulated too, since they take their part of the
    steps; their times are not looked at."""
    steps = prompt_steps(profile, workload, measured, count)

    def made(logs: Floats) -> EngineProfile:
        step_s, sequence_s, kv_token_s = np.exp(logs).tolist()
        return replace(
            profile,
            step_s=step_s,
            sequence_s=sequence_s,
            kv_token_s=kv_token_s,
            prefill_token_s=steps.token,
            prefill_step_s=max(steps.base - step_s, 0.0),
            prefill_kv_token_s=max(steps.read - kv_token_s - sequence_s / steps.read_per_sequence, 0.0),
        )

    start = np.log([getattr(profile, name) for name in DECODE])

    def errors(logs: Floats) -> Floats:
        model = replay(made(logs), workload, np.zeros(0))
        ratios = [getattr(model, name)[:count] / getattr(measured, name)[:count] for name in ("tpot", "e2e")]
        return np.concatenate([np.log(ratio) for ratio in ratios] + [PRIOR * (logs - start)])

    return made(least_squares(errors, start))


def prompt_steps(profile: EngineProfile, workload: Workload, measured: Timings, count: int) -> PromptSteps:
    """Of the first `count` requests, those whose prompts were computed in one step that was scheduled for them. How far
    the others were by then is taken to have grown evenly from their first token to their last."""
    arrivals = np.array(workload.arrivals)[:count]
    prompts = np.array([request.prompt_tokens for request in workload.requests[:count]], dtype=float)
    outputs = np.array([request.output_tokens for request in workload.requests[:count]], dtype=float)
    first, last = arrivals + measured.ttft[:count], arrivals + measured.e2e[:count]
    scheduled = first - measured.prefill[:count]
    rows, lengths, sizes = [], [], []
    order = np.argsort(first)
    for step in np.split(order, np.flatnonzero(np.diff(first[order]) > TOGETHER) + 1):
        begun, ended = scheduled[step].min(), first[step].max()
        alone = not np.any((first > begun + TOGETHER) & (first < ended - TOGETHER))
        tokens = prompts[step].sum()
        if np.ptp(scheduled[step]) > TOGETHER or tokens > 0.9 * profile.max_batch_tokens or not alone:
            continue
        decoding = (first <= begun + TOGETHER) & (last > begun)
        share = ((begun - first) / (last - first))[decoding]
        read = float((prompts[decoding] + outputs[decoding] * share).sum())
        rows.append((1.0, tokens, read))
        lengths.append(ended - begun)
        sizes.append(int(decoding.sum()))
    base, token, read = _regress(np.array(rows), np.array(lengths))
    mean_read = np.mean([row[2] for row in rows]) / max(float(np.mean(sizes)), 1e-9)
    return PromptSteps(base, token, read, max(float(mean_read), 1.0))


def _regress(rows: Floats, lengths: Floats, rounds: int = 20) -> list[float]:
    """Least absolute differences (by reweighting), not squares: some of these steps waited for one that was not seen.
    No constant is less than 0."""
    scale = rows.mean(axis=0)
    weights = np.ones(len(lengths))
    found = np.zeros(rows.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weights)[:, None]
        found = np.linalg.lstsq(rows / scale * root, lengths * root[:, 0], rcond=None)[0]
        weights = 1 / np.maximum(np.abs(rows / scale @ found - lengths), 1e-4)
    return [float(value) for value in np.maximum(found / scale, 1e-9)]


def least_squares(errors: Callable[[Floats], Floats], start: Floats, *, rounds: int = 12, step: float = 0.1) -> Floats:
    """Levenberg and Marquardt's method with differences for derivatives: queues make the errors jump, so the
    differences are wide."""
    at, damping = start, 1e-2
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
