"""A run in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmgate.sim.record import Floats
from llmgate.sim.simulation import Outcome
from llmgate.sim.slo import SloBounds


@dataclass(frozen=True, slots=True)
class Spread:
    """A time over requests, in seconds; NaN if there was none."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, times: Floats) -> Spread:
        if not len(times):
            return cls(*[math.nan] * 5)
        return cls(float(times.mean()), *(float(each) for each in np.percentile(times, (50, 90, 95, 99))))


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run. Latencies are of completed requests; those that failed are counted, and miss the SLO."""

    ttft: Spread  # arrival → first token
    tpot: Spread  # per token after the first
    e2e: Spread  # arrival → last token
    prefix_hit_ratio: float  # prompt tokens found in the engines' caches / all prompt tokens, of completed requests
    tokens_per_s: float  # answer tokens of completed requests, from the first arrival to the last end
    prompt_tokens_per_s: float  # the same of prompt tokens, cached ones included
    goodput_ratio: float  # requests that met the SLO / all
    goodput_per_s: float  # requests a second that met it
    imbalance: float  # see Sampler.imbalance
    preemptions: int
    requests: int
    failed: int
    retried: int  # requests that more than one engine was asked for
    duration_s: float  # from the first arrival to the last end

    @classmethod
    def of(cls, outcome: Outcome, slo: SloBounds) -> Summary:
        table = outcome.requests
        ok = table.ok
        prompts = int(table.prompt_tokens[ok].sum())
        duration = float(np.nanmax(table.ended) - np.nanmin(table.arrived)) if len(table) else 0.0
        per_second = 1.0 / duration if duration else 0.0
        good = int(slo.met(table).sum())
        return cls(
            ttft=Spread.of(table.ttft),
            tpot=Spread.of(table.tpot),
            e2e=Spread.of(table.e2e),
            prefix_hit_ratio=float(table.cached_tokens[ok].sum()) / prompts if prompts else 0.0,
            tokens_per_s=float(table.output_tokens[ok].sum()) * per_second,
            prompt_tokens_per_s=prompts * per_second,
            goodput_ratio=good / len(table) if len(table) else 0.0,
            goodput_per_s=good * per_second,
            imbalance=outcome.imbalance,
            preemptions=outcome.preemptions,
            requests=len(table),
            failed=len(table) - int(ok.sum()),
            retried=int((table.attempts > 1).sum()),
            duration_s=duration,
        )

    def figures(self) -> dict[str, float]:
        """Everything by name, latencies as `ttft.p50`."""
        flat: dict[str, float] = {}
        for name, value in asdict(self).items():
            if isinstance(value, Mapping):
                flat |= {f"{name}.{part}": number for part, number in value.items()}
            else:
                flat[name] = value
        return flat


def as_json(value: Any) -> Any:
    """Figures for a JSON file: NaN, which JSON has not, is null."""
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
