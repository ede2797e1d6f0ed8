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

SPLITS = ((0.7, 0.3), (0.4, 0.6))
"""Where the search begins: what a step that computes a prompt takes is known from TTFTs, and how much of it a step
without one takes is guessed, and similarly for reading the KV cache."""

NOTHING = np.zeros(0)


def fit(profile: EngineProfile, workload: Workload, measured: Timings, count: int) -> EngineProfile:
    """Least squares over the logarithms of the constants: relative errors of TTFT, TPOT and E2E of the first `count`
    requests. The later ones are simulated too, since they take their part of the steps; their times are not looked at.
    """

    def errors(logs: Floats, names: Sequence[str]) -> Floats:
        model = replay(_with(profile, logs), workload, NOTHING)
        return np.concatenate([np.log(getattr(model, n)[:count] / getattr(measured, n)[:count]) for n in names])

    def search(start: Floats) -> Floats:
        # TPOT first: it changes smoothly, where a wait for a place jumps by whole steps.
        near = least_squares(lambda logs: errors(logs, ("tpot",)), start)
        return least_squares(lambda logs: errors(logs, ("ttft", "tpot", "e2e")), near)

    found = [search(start) for start in _starts(profile, workload, measured, count)]
    return _with(profile, min(found, key=lambda logs: float(np.abs(errors(logs, ("ttft", "tpot", "e2e"))).sum())))


def _starts(profile: EngineProfile, workload: Workload, measured: Timings, count: int) -> list[Floats]:
    """From the steps in which a prompt is computed at once: their length is a + b · tokens + c · KV tokens read, of
    which the first `count` requests' TTFTs are samples. Each begins half a step late on average, so the quicker half
    of those with equal load would be the better sample; the search puts that right."""
    arrivals = np.array(workload.arrivals)
    prompts = np.array([request.prompt_tokens for request in workload.requests], dtype=float)
    outputs = np.array([request.output_tokens for request in workload.requests], dtype=float)
    first, last = arrivals + measured.ttft, arrivals + measured.e2e
    rows, lengths = [], []
    for n in range(count):
        if prompts[n] > profile.max_batch_tokens * 0.9 or measured.ttft[n] > 10 * np.median(measured.ttft[:20]):
            continue
        decoding = (first[:count] <= arrivals[n]) & (last[:count] > arrivals[n])
        share = (arrivals[n] - first[:count]) / np.maximum(last[:count] - first[:count], 1e-9)
        read = (prompts[:count] + outputs[:count] * share)[decoding].sum()
        rows.append((1.0, prompts[n], read))
        lengths.append(measured.ttft[n] - profile.sequence_s * decoding.sum())
    step, token, read = np.linalg.lstsq(np.array(rows), np.array(lengths), rcond=None)[0]
    step, token, read = max(step, 2e-3), max(token, 1e-6), max(read, 1e-8)
    return [
        np.log([step * share, profile.sequence_s, read * share, token, step * rest, read * rest])
        for share, rest in SPLITS
    ]


def _with(profile: EngineProfile, logs: Sequence[float] | Floats) -> EngineProfile:
    return replace(profile, **dict(zip(CONSTANTS, np.exp(logs).tolist(), strict=True)))


def least_squares(errors: Callable[[Floats], Floats], start: Floats, *, rounds: int = 12, step: float = 0.1) -> Floats:
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
