"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Column, Table

from llmgate.bench.compare import FIGURES, LATENCIES, differences, rows
from llmgate.bench.result import Result

LABELS = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2e": "E2E"}


def show_result(result: Result, console: Console) -> None:
    table = Table(Column("ms"), *(Column(name, justify="right") for name in FIGURES))
    for name in LATENCIES:
        stats = getattr(result, name)
        if stats is not None:
            table.add_row(LABELS[name], *(f"{getattr(stats, figure) * 1e3:,.2f}" for figure in FIGURES))
    if table.row_count:
        console.print(table)
    for name, text in facts(result):
        console.print(f"{name}: {text}")


def facts(result: Result) -> Iterator[tuple[str, str]]:
    """What the table of latencies does not hold: names and what is to be said."""
    yield (
        "requests",
        f"{result.succeeded} of {result.requests} succeeded in {result.duration_s:.1f} s"
        + (f"; {result.warmup} more for the warm-up" if result.warmup else "")
        + (f"; ended early, {result.aborted} cut off" if result.ended_early else ""),
    )
    rate = result.throughput
    tokens = f"{rate.prompt_tokens_per_s:,.0f} prompt tokens/s, {rate.output_tokens_per_s:,.0f} output tokens/s"
    yield "throughput", f"{rate.requests_per_s:.2f} requests/s, {tokens}"
    if result.goodput is not None:
        bounds = ", ".join(f"{LABELS[name]} ≤ {bound:g} s" for name, bound in result.goodput.slo.items())
        good = result.goodput
        yield "goodput", f"{good.ratio:.1%} of requests, {good.requests_per_s:.2f} requests/s, within {bounds}"
    if result.succeeded:
        yield "tokens a request", _tokens(result)
    for kind, count in result.errors.items():
        example = result.error_examples.get(kind)
        yield f"error {kind}", f"{count}" + (f" (the first: {example})" if example else "")
    own = result.generator
    lag = "" if own.lag is None else f", late by {own.lag.mean * 1e3:.2f} ms (mean), {own.lag.p99 * 1e3:.2f} ms (p99)"
    yield "generator", f"{own.cpu_ratio:.0%} of a core{lag}"
    yield from (("warning", warning) for warning in result.warnings)


def _tokens(result: Result) -> str:
    tokens = result.tokens
    cached = "" if tokens.cached is None else f", {tokens.cached / tokens.prompt if tokens.prompt else 0:.1%} cached"
    ratio = "" if tokens.prompt_ratio is None else f" ({tokens.prompt_ratio:.3f} of what was asked for)"
    return (
        f"{tokens.prompt / result.succeeded:.1f} prompt{ratio}{cached}, "
        f"{tokens.output / result.succeeded:.1f} output by {' and '.join(tokens.counted_by)}"
    )


def show_comparison(a: Result, b: Result, console: Console) -> None:
    table = Table("", "unit", *(Column(name, justify="right") for name in ("A", "B", "B/A")))
    for row in rows(a, b):
        scale, unit = (1e3, "ms") if row.unit == "s" else (1.0, row.unit)
        cells = ["-" if value is None else f"{value * scale:,.3f}" for value in (row.a, row.b)]
        table.add_row(row.name, unit, *cells, "-" if row.ratio is None else f"{row.ratio:.3f}")
    console.print(table)
    for note in differences(a, b):
        console.print(f"note: {note}")
