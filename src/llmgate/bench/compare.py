"""Two results side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from llmgate.bench.result import Result

LATENCIES = ("ttft", "itl", "tpot", "e2e")
FIGURES = ("mean", "p50", "p90", "p95", "p99", "max")


class Row(msgspec.Struct, frozen=True):
    name: str
    unit: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """b/a; None where either is missing or a is 0."""
        return self.b / self.a if self.a and self.b is not None else None


def rows(a: Result, b: Result) -> Iterator[Row]:
    for name in LATENCIES:
        left, right = getattr(a, name), getattr(b, name)
        for figure in FIGURES:
            if left is not None or right is not None:
                yield Row(f"{name} {figure}", "s", getattr(left, figure, None), getattr(right, figure, None))
    for figure, unit in (("requests", "1/s"), ("prompt_tokens", "tokens/s"), ("output_tokens", "tokens/s")):
        field = f"{figure}_per_s"
        yield Row(figure.replace("_", " "), unit, getattr(a.throughput, field), getattr(b.throughput, field))
    if a.goodput is not None or b.goodput is not None:
        yield Row("goodput", "ratio", getattr(a.goodput, "ratio", None), getattr(b.goodput, "ratio", None))
    yield Row("failed", "ratio", *(each.failed / each.requests if each.requests else None for each in (a, b)))
    yield Row("prompt tokens a request", "tokens", *(_each(result, result.tokens.prompt) for result in (a, b)))
    yield Row("output tokens a request", "tokens", *(_each(result, result.tokens.output) for result in (a, b)))


def differences(a: Result, b: Result) -> list[str]:
    """What makes the two hard to compare, in sentences."""
    left: dict[str, Any] = {"model": a.model, "llmgate": a.version, **a.parameters}
    right: dict[str, Any] = {"model": b.model, "llmgate": b.version, **b.parameters}
    named = sorted({*left, *right} - {"url", "prompt_seed"})
    notes = [
        f"{name} differs: {_shown(left.get(name))} and {_shown(right.get(name))}"
        for name in named
        if left.get(name) != right.get(name)
    ]
    for name, result in (("A", a), ("B", b)):
        notes += [f"{name} was ended early"] if result.ended_early else []
        notes += [f"{name}: {warning}" for warning in result.warnings]
    return notes


def as_data(a: Result, b: Result) -> dict[str, Any]:
    """For JSON: {"figures": {name: {"unit", "a", "b", "ratio"}}, "differences": [sentence, …]}."""
    figures = {row.name: {"unit": row.unit, "a": row.a, "b": row.b, "ratio": row.ratio} for row in rows(a, b)}
    return {"figures": figures, "differences": differences(a, b)}


def _each(result: Result, tokens: int) -> float | None:
    return tokens / result.succeeded if result.succeeded else None


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
