"""How good the times are that expected-latency predicts, and what going by targets changes, in the simulator.

    python -m benchmarks.predictions [--engines SPEC] [--rate-scale 1.4] [--ttft 1.0] [--tpot 0.06] [--every 1]

The first row is without targets; in the second each request has them, or one of `--every` so many. Rows are of these.
The first fifth of them, in which speeds are learnt, is left out of the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from llmgate.core.protocols import Candidates
from llmgate.core.slo import Prediction, Slo
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.engines.spec import parse_specs
from llmgate.routing.expected_latency import ExpectedLatency
from llmgate.sim.run import fitted, simulate
from llmgate.workloads import load, scaled

Pairs = list[tuple[float, float]]
"""Predicted and observed, in seconds."""


class Watched(ExpectedLatency):
    """Predicts every request, as a gateway does that explains all of its decisions."""

    def __init__(self, slo: Slo | None, every: int) -> None:
        super().__init__()
        self.slo = slo
        self.every = every
        self.ttfts: Pairs = []
        self.tpots: Pairs = []
        self._foreseen: dict[InferenceRequest, dict[Endpoint, Prediction]] = {}
        self._begun: dict[InferenceRequest, tuple[Prediction, float]] = {}
        self._sent: dict[InferenceRequest, float] = {}

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        request.slo = self.slo if self._counts(request) else None
        costs = super().score(request, candidates)
        endpoints, cached, now = candidates
        self._foreseen[request] = {
            endpoint: self.predict(request, endpoint, held, now)
            for endpoint, held in zip(endpoints, cached, strict=True)
        }
        self._sent[request] = now
        return costs

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        super().answered(request, endpoint, now)
        predicted, ttft = self._foreseen.pop(request)[endpoint], now - self._sent[request]
        self._begun[request] = predicted, ttft
        if self._counts(request):
            self.ttfts.append((predicted.ttft, ttft))

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        super().finished(request, endpoint, usage, seconds, now)
        predicted, ttft = self._begun.pop(request)
        tpot = None
        if usage is not None and usage.completion_tokens > 1:
            tpot = (seconds - ttft) / (usage.completion_tokens - 1)
            if self._counts(request):
                self.tpots.append((predicted.tpot, tpot))
        self.observed(endpoint, predicted, ttft, tpot)

    def _counts(self, request: InferenceRequest) -> bool:
        return int(request.id) % self.every == 0


def cells(pairs: Pairs, target: float) -> list[str]:
    """Quantiles of predicted / observed, how much of what missed the target was foreseen, how much was met."""
    predicted, observed = np.array(pairs).T
    ratios = (predicted / np.maximum(observed, 1e-9))[len(pairs) // 5 :]
    missed = observed > target
    foreseen = f"{np.mean(predicted[missed] > target):.0%}" if missed.any() else "none missed"
    quantiles = [f"{value:.2f}" for value in np.quantile(ratios, [0.1, 0.5, 0.9])]
    return [*quantiles, foreseen, f"{np.mean(~missed):.2%}"]


def main(trace: Path, engines: str, rate_scale: float, slo: Slo, every: int) -> None:
    fleet = parse_specs(engines)
    workload = fitted(scaled(load(trace), rate_scale), fleet)
    table = Table(title=f"{trace.name} × {rate_scale:g} on {engines}; predicted / observed")
    for column in ("targets", "of", "p10", "p50", "p90", "missed, foreseen", "met"):
        table.add_column(column, justify="left" if column in ("targets", "of") else "right")
    for name, wanted in (("none", None), (f"{slo.ttft:g} s, {slo.tpot * 1e3:g} ms", slo)):
        router = Watched(wanted, every)
        simulate(workload, fleet, lambda router=router: router)  # type: ignore[misc]
        table.add_row(name, "TTFT", *cells(router.ttfts, slo.ttft))
        table.add_row("", "TPOT", *cells(router.tpots, slo.tpot))
    Console(width=110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("benchmarks/data/mooncake_conversation_first_half.jsonl.gz")
    parser.add_argument("--trace", type=Path, default=default)
    parser.add_argument("--engines", default="8x4h100:llama-3.1-70b")
    parser.add_argument("--rate-scale", type=float, default=1.4)
    parser.add_argument("--ttft", type=float, default=1.0, help="s (default: 1)")
    parser.add_argument("--tpot", type=float, default=0.06, help="s (default: 0.06)")
    parser.add_argument("--every", type=int, default=1, help="one of so many requests has targets (default: 1)")
    args = parser.parse_args()
    main(args.trace, args.engines, args.rate_scale, Slo(args.ttft, args.tpot), args.every)
