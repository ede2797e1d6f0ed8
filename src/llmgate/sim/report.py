"""A study as a page: what `simulate --report` writes."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmgate.reports import (
    Cell,
    Column,
    Figure,
    Looks,
    Report,
    Table,
    bars,
    cdf,
    engines_over_time,
    percentiles,
    timeline,
    write,
)
from llmgate.sim.paired import t_quantile
from llmgate.sim.record import Floats, RequestTable
from llmgate.sim.study import PolicyResult, Study

ORACLE = "oracle"
MOMENTS = 120
"""Of the throughput's curve."""

PARTS = ("mean", "p50", "p90", "p95", "p99")
TIMES = (
    ("ttft", "Time to first token", "s", 1.0, ",.3f"),
    ("tpot", "Time per output token", "ms", 1e3, ",.1f"),
    ("e2e", "Whole answer", "s", 1.0, ",.2f"),
)
LATENCIES = (("ttft", "Time to first token", "TTFT"), ("e2e", "Whole answer", "E2E"))
DIFFERENCES = (
    ("ttft.mean", "TTFT mean (s)", 1.0, ".3f"),
    ("ttft.p99", "TTFT p99 (s)", 1.0, ".3f"),
    ("tpot.mean", "TPOT mean (ms)", 1e3, ".2f"),
    ("e2e.mean", "E2E mean (s)", 1.0, ".3f"),
    ("prefix_hit_ratio", "prefix hits (points)", 100.0, ".1f"),
    ("goodput_ratio", "goodput (points)", 100.0, ".1f"),
)


def write_report(study: Study, directory: Path) -> Path:
    """The page's path. Raises ReportError if it cannot be written, or if there is no matplotlib."""
    labels = _labels([result.policy for result in study.policies])
    rows = dict(zip(labels, study.policies, strict=True))
    looks = Looks(rows, ink=[ORACLE] if ORACLE in rows else [])
    report = Report(
        f"Policies on {Path(study.workload).name}",
        facts=list(_facts(study)),
        tables=list(_tables(study, rows)),
        figures=list(_figures(study, rows, looks)),
    )
    return write(report, directory)


def _labels(policies: Sequence[str]) -> list[str]:
    """`package.module:Class` by its class's name, where that tells it apart."""
    short = [name.partition(":")[2] if "." in name.partition(":")[0] else name for name in policies]
    counted = Counter(short)
    return [brief if counted[brief] == 1 else name for brief, name in zip(short, policies, strict=True)]


def _facts(study: Study) -> Iterator[tuple[str, str]]:
    runs = study.policies[0].runs
    yield "workload", Path(study.workload).name
    yield (
        "requests",
        f"{runs[0].summary.requests:,} over {runs[0].summary.duration_s:,.0f} s, at × {study.rate_scale:g} the rate",
    )
    for reason, count in study.dropped.items():
        yield "left out", f"{count:,}: {reason}"
    yield "engines", study.engines
    yield "SLO", str(study.slo)
    yield ("seed" if len(study.seeds) == 1 else "seeds"), ", ".join(map(str, study.seeds))
    for incident in study.incidents:
        yield "at", incident


def _tables(study: Study, rows: dict[str, PolicyResult]) -> Iterator[Table]:
    seeds = len(study.seeds)
    note = f"Means over {seeds} seeds. " if seeds > 1 else ""
    for name, title, unit, factor, form in TIMES:
        columns = [Column("policy"), *(Column(f"{part} ({unit})", form, "lowest") for part in PARTS)]
        yield Table(
            title,
            columns,
            [(label, *(factor * result.mean(f"{name}.{part}") for part in PARTS)) for label, result in rows.items()],
            note + "Of requests that were completed.",
        )
    yield _rest(study, rows, note)
    if seeds > 1 and len(rows) > 1:
        yield _differences(study, rows)


def _rest(study: Study, rows: dict[str, PolicyResult], note: str) -> Table:
    figures = [
        ("prefix_hit_ratio", Column("prefix hits", ".1%", "highest", "prompt tokens found in an engine's cache")),
        ("tokens_per_s", Column("output tokens/s", ",.0f", "highest")),
        ("goodput_ratio", Column("goodput", ".1%", "highest", f"requests that met the SLO: {study.slo}")),
        (
            "imbalance",
            Column(
                "imbalance", ".2f", "lowest", "standard deviation of requests in flight over engines, by their mean"
            ),
        ),
        ("preemptions", Column("preemptions", ",.0f", "lowest")),
        ("failed", Column("failed", ",.0f", "lowest")),
    ]
    if study.policies[0].capacities:
        figures.append(("capacity", Column("capacity (× rate)", ".3g", "highest", "rate at which 90 % meet the SLO")))
    return Table(
        "Cache, throughput, balance",
        [Column("policy"), *(column for _, column in figures)],
        [(label, *(result.mean(name) for name, _ in figures)) for label, result in rows.items()],
        note + "Goodput is the share of all requests that met the SLO.",
    )


def _differences(study: Study, rows: dict[str, PolicyResult]) -> Table:
    first = next(iter(rows))
    cells: list[list[Cell]] = []
    for label, result in list(rows.items())[1:]:
        row: list[Cell] = [label]
        for name, _, factor, form in DIFFERENCES:
            found = study.difference(result, name)
            half = (found.high - found.low) / 2
            text = f"{factor * found.mean:+z{form}} ± {factor * half:{form}}".replace("-", "−")
            row.append(text if found.clear else f"{text} ○")
        cells.append(row)
    return Table(
        f"Difference to {first}",
        [Column("policy"), *(Column(title) for _, title, _, _ in DIFFERENCES)],
        cells,
        f"Paired over {len(study.seeds)} seeds, with 95 % intervals. ○: the interval holds 0: it may be the seeds.",
    )


def _figures(study: Study, rows: dict[str, PolicyResult], looks: Looks) -> Iterator[Figure]:
    over = f"All requests of {len(study.seeds)} seeds." if len(study.seeds) > 1 else ""
    for name, title, label in LATENCIES:
        values = {
            row: np.concatenate([getattr(run.outcome.requests, name) for run in result.runs])
            for row, result in rows.items()
        }
        yield cdf(values, looks, name=f"{name}-cdf", title=f"{title}, distribution", label=label, caption=over)
    for name, title, label in LATENCIES:
        parts = {row: {part: result.mean(f"{name}.{part}") for part in PARTS[1:]} for row, result in rows.items()}
        yield percentiles(parts, looks, name=f"{name}-percentiles", title=f"{title}, percentiles", label=label)
    yield _bars(
        rows, looks, "prefix_hit_ratio", title="Prefix hit rate", label="prompt tokens found in a cache", percent=True
    )
    yield _bars(
        rows, looks, "goodput_ratio", title="Goodput", label=f"requests that met the SLO ({study.slo})", percent=True
    )
    if study.policies[0].capacities:
        yield _bars(
            rows, looks, "capacity", title="Capacity", label="× the workload's rate, at which 90 % meet the SLO"
        )
    seed = f"Seed {study.seeds[0]}." if len(study.seeds) > 1 else ""
    tokens = {row: _throughput(result.runs[0].outcome.requests) for row, result in rows.items()}
    yield timeline(tokens, looks, name="throughput", title="Throughput", label="output tokens/s", caption=seed)
    load = {row: {e.name: (e.at, e.in_flight) for e in result.runs[0].outcome.engines} for row, result in rows.items()}
    yield engines_over_time(
        load,
        looks,
        name="load",
        title="Load of each engine",
        label="requests in flight",
        caption=f"A thin line is an engine, the thick one their mean. {seed}".strip(),
    )


def _bars(
    rows: dict[str, PolicyResult], looks: Looks, figure: str, *, title: str, label: str, percent: bool = False
) -> Figure:
    values = {row: result.mean(figure) for row, result in rows.items()}
    intervals = {row: _interval(result.by_seed(figure)) for row, result in rows.items()}
    several = len(next(iter(rows.values())).runs) > 1
    return bars(
        values,
        looks,
        name=figure.replace("_", "-"),
        title=title,
        label=label,
        intervals=intervals if several else None,
        percent=percent,
        caption="Whiskers are 95 % intervals of the mean over seeds." if several else "",
    )


def _interval(by_seed: Sequence[float]) -> tuple[float, float]:
    mean = statistics.fmean(by_seed)
    if len(by_seed) < 2:
        return mean, mean
    half = t_quantile(len(by_seed) - 1) * statistics.stdev(by_seed) / math.sqrt(len(by_seed))
    return mean - half, mean + half


def _throughput(requests: RequestTable) -> tuple[Floats, Floats]:
    """Output tokens a second over time, each request's spread evenly from its first token to its last."""
    begins, ends = requests.first_token[requests.ok], requests.ended[requests.ok]
    tokens = requests.output_tokens[requests.ok]
    if not len(ends) or not ends.max() > 0:
        return np.zeros(0), np.zeros(0)
    edges = np.linspace(0.0, float(ends.max()), MOMENTS + 1)
    spans = np.maximum(ends - begins, 1e-9)
    made = np.array([(tokens * np.clip((edge - begins) / spans, 0.0, 1.0)).sum() for edge in edges])
    return (edges[1:] + edges[:-1]) / 2, np.diff(made) / np.diff(edges)
