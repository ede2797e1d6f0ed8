"""The HTML page of a result, and of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llmgate import reports
from llmgate.bench import compare
from llmgate.bench.errors import BenchError
from llmgate.bench.histogram import quantiles
from llmgate.bench.record import Record
from llmgate.bench.result import Result
from llmgate.bench.summary import gaps, measured
from llmgate.bench.table import LABELS, facts

TITLES = {
    "ttft": "Time to first token",
    "itl": "Time between events with content",
    "tpot": "Time per output token",
    "e2e": "Time to the end of the answer",
}
Values = Mapping[str, Sequence[float]]


def write_report(result: Result, records: Sequence[Record], directory: Path) -> Path:
    """The page's path. Raises BenchError."""
    good = [record for record in measured(records) if record.good]
    figures = [
        *_cdfs(
            {
                "ttft": {LABELS["ttft"]: [ttft for record in good if (ttft := record.ttft) is not None]},
                "itl": {LABELS["itl"]: [gap for record in good for gap in gaps(record)]},
                "tpot": {LABELS["tpot"]: [tpot for record in good if (tpot := record.tpot) is not None]},
                "e2e": {LABELS["e2e"]: [record.e2e for record in good]},
            }
        ),
        *_over_time(result),
    ]
    columns = [reports.Column("ms"), *(reports.Column(name, form=",.2f") for name in compare.FIGURES)]
    rows = [
        [LABELS[name], *(getattr(stats, figure) * 1e3 for figure in compare.FIGURES)]
        for name in compare.LATENCIES
        if (stats := getattr(result, name)) is not None
    ]
    report = reports.Report(
        f"Load on {result.model}",
        facts=[*facts(result), *_parameters(result)],
        tables=[reports.Table("Latencies", columns, rows)],
        figures=figures,
    )
    return _written(report, directory)


def write_comparison(a: Result, b: Result, directory: Path) -> Path:
    """As `write_report`, of two results: distributions to a percent of the requests, from their histograms."""
    columns = [
        reports.Column(""),
        reports.Column("unit"),
        *(reports.Column(name, form=",.4g") for name in ("A", "B", "B/A")),
    ]
    rows = [[row.name, row.unit, row.a, row.b, row.ratio] for row in compare.rows(a, b)]
    sides = (("A", a), ("B", b))
    shared = {name: {side: _sample(result, name) for side, result in sides} for name in compare.LATENCIES}
    report = reports.Report(
        f"{a.model} and {b.model}" if a.model != b.model else a.model,
        facts=[(f"{side}: {name}", value) for side, result in sides for name, value in _parameters(result)]
        + [("note", note) for note in compare.differences(a, b)],
        tables=[reports.Table("Two results", columns, rows)],
        figures=list(_cdfs(shared)),
    )
    return _written(report, directory)


def _sample(result: Result, name: str) -> list[float]:
    encoded = result.histograms.get(name)
    return [seconds for seconds, _ in quantiles(encoded)] if encoded else []


def _cdfs(latencies: Mapping[str, Values]) -> Iterator[reports.Figure]:
    for name, values in latencies.items():
        if any(values.values()):
            looks = reports.Looks(list(values))
            caption = "Shares are of gaps, not of requests." if name == "itl" else ""
            yield reports.cdf(values, looks, name=name, title=TITLES[name], label=LABELS[name], caption=caption)


def _over_time(result: Result) -> Iterator[reports.Figure]:
    """Rates over each interval but the last, which is not over; none of a run too short for a curve."""
    intervals = result.timeline[:-1]
    if len(intervals) < 2:
        return
    width = result.interval_s
    times = [interval.begin + width / 2 for interval in intervals]
    tokens = {"output tokens": (times, [interval.output_tokens / width for interval in intervals])}
    yield reports.timeline(tokens, reports.Looks(list(tokens)), name="tokens", title="Throughput", label="tokens/s")
    ends = {
        "ended well": (times, [interval.requests / width for interval in intervals]),
        "failed": (times, [interval.errors / width for interval in intervals]),
    }
    yield reports.timeline(ends, reports.Looks(list(ends)), name="requests", title="Requests", label="requests/s")


def _parameters(result: Result) -> Iterator[tuple[str, str]]:
    for name, value in result.parameters.items():
        if value not in (None, {}, "") and name != "slo":  # told with the goodput
            yield ("requests sent" if name == "requests" else name.replace("_", " ")), str(value)


def _written(report: reports.Report, directory: Path) -> Path:
    try:
        return reports.write(report, directory)
    except reports.ReportError as error:
        raise BenchError(str(error)) from None
