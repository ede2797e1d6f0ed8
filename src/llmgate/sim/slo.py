"""What clients expect, and which requests met it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmgate.engines.profile import EngineProfile
from llmgate.engines.spec import EngineSpec
from llmgate.sim.record import Floats, Recorder, RequestTable
from llmgate.sim.units import seconds
from llmgate.workloads.types import Workload

RELATIVE_FLOOR, RELATIVE_FACTOR = 2.0, 2.0
"""The relative objective: the first token within 2 s, or within twice what the prompt alone takes, if that is more."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in seconds; inf is none. `relative`: TTFT within max(2 s, 2 × the request's own idle prefill)."""

    relative: bool = True
    ttft: float = math.inf
    tpot: float = math.inf
    e2e: float = math.inf

    def __str__(self) -> str:
        absolute = [f"{name}={value:g}s" for name in _BOUNDS if (value := getattr(self, name)) < math.inf]
        return ",".join((["relative"] if self.relative else []) + absolute)

    def bounds(self, workload: Workload, fleet: Sequence[EngineSpec]) -> SloBounds:
        """What that means for each request of `workload`."""
        ttft = np.full(len(workload.requests), self.ttft)
        if self.relative:
            ttft = np.minimum(ttft, np.maximum(RELATIVE_FLOOR, RELATIVE_FACTOR * idle_prefills(workload, fleet)))
        return SloBounds(ttft.tolist(), self.tpot, self.e2e)


_BOUNDS = ("ttft", "tpot", "e2e")


def parse_slo(text: str) -> Slo:
    """From `relative`, `ttft=2s,tpot=50ms`, or both. ValueError says what is wrong."""
    relative, bounds = False, dict[str, float]()
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name == "relative" and not equals:
            relative = True
        elif name in _BOUNDS and equals and name not in bounds:
            bounds[name] = seconds(value)
            if not bounds[name]:
                raise ValueError(f"{part.strip()!r}: a bound must be above 0")
        else:
            raise ValueError(f"{part.strip()!r} is no objective: write `relative`, or bounds as in `ttft=2s,tpot=50ms`")
    return Slo(relative, **bounds)


class SloBounds:
    """An objective, request by request."""

    def __init__(self, ttft: list[float], tpot: float, e2e: float) -> None:
        self.ttft, self.tpot, self.e2e = ttft, tpot, e2e

    def met(self, table: RequestTable) -> NDArray[np.bool_]:
        """Which requests met it. One that failed did not."""
        later = np.maximum(table.output_tokens - 1, 1)
        with np.errstate(invalid="ignore"):
            first = table.first_token - table.arrived <= np.asarray(self.ttft)
            steady = (table.ended - table.first_token) / later <= self.tpot
            whole = table.ended - table.arrived <= self.e2e
        met: NDArray[np.bool_] = table.ok & first & steady & whole
        return met

    def met_by(self, recorder: Recorder, index: int) -> bool:
        """The same of one request that has just ended."""
        arrived, first, ended = recorder.arrived[index], recorder.first_token[index], recorder.ended[index]
        later = max(recorder.output_tokens[index] - 1, 1)
        return (
            recorder.ok[index]
            and first - arrived <= self.ttft[index]
            and (ended - first) / later <= self.tpot
            and ended - arrived <= self.e2e
        )


def idle_prefills(workload: Workload, fleet: Sequence[EngineSpec]) -> Floats:
    """Seconds that each request's whole prompt takes on the fastest engine of its model with nothing else to do and
    nothing cached: by EngineProfile's formula, in as many steps as the budget of a step demands."""
    prompts = np.array([request.prompt_tokens for request in workload.requests], dtype=np.float64)
    default = fleet[0].profile.model
    models = np.array([request.model or default for request in workload.requests])
    times = np.full(len(prompts), math.inf)
    for profile in {spec.profile: None for spec in fleet}:
        of_model = models == profile.model
        times[of_model] = np.minimum(times[of_model], _idle_prefill(profile, prompts[of_model]))
    return times


def _idle_prefill(profile: EngineProfile, prompt_tokens: Floats) -> Floats:
    steps = np.ceil(prompt_tokens / profile.max_batch_tokens)
    pairs = prompt_tokens * (prompt_tokens + 1.0) / 2.0
    per_step = profile.step_s + profile.prefill_step_s
    return steps * per_step + prompt_tokens * profile.prefill_token_s + pairs * profile.prefill_pair_s
