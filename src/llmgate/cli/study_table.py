"""A study as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from llmgate.sim.capacity import HIGHEST, LOWEST
from llmgate.sim.paired import Difference
from llmgate.sim.study import PolicyResult, Study

PARTS = ("mean", "p50", "p90", "p95", "p99")
LATENCIES = (("ttft", "TTFT, s", 1.0), ("tpot", "TPOT, ms", 1000.0), ("e2e", "E2E, s", 1.0))
REST = {
    "prefix_hit_ratio": "hits",
    "tokens_per_s": "tok/s",
    "goodput_ratio": "goodput",
    "imbalance": "imbalance",
    "preemptions": "preempted",
    "failed": "failed",
}
SHOWN_DIFFERENCES = ("ttft.mean", "ttft.p99", "tpot.mean", "e2e.mean", "prefix_hit_ratio", "goodput_ratio")


def show(study: Study) -> None:
    """Print it: latencies, the other figures, capacities and differences where there are any, what was left out."""
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(_title(study))
    for group, heading, factor in LATENCIES:
        rows = [
            (result.policy, *(_number(factor * result.mean(f"{group}.{part}")) for part in PARTS))
            for result in study.policies
        ]
        console.print(_table((heading, *PARTS), rows))
    rest = [(result.policy, *(_cell(name, result.mean(name)) for name in REST)) for result in study.policies]
    console.print(_table(("", *REST.values()), rest))
    if study.policies[0].capacities:
        capacities = [(result.policy, *_capacity(result)) for result in study.policies]
        console.print(_table((f"{study.slo} for 90 %", "up to × rate", "requests/s"), capacities))
    if len(study.seeds) > 1 and len(study.policies) > 1:
        console.print(_differences(study))
    for reason, count in study.dropped.items():
        console.print(f"left out of the workload: {count} ({reason})")
    for result in study.policies:
        for reason, count in result.failures().items():
            console.print(f"failed with {result.policy}: {count} ({reason})")


def _capacity(result: PolicyResult) -> tuple[str, str]:
    """What the search gave up at is no capacity, and marked."""
    scales = result.by_seed("capacity")
    if not max(scales):
        return f"< {_number(LOWEST)}", "–"
    mark = "≥ " if max(scales) >= HIGHEST else ""
    rates = [capacity.requests_per_s for capacity in result.capacities]
    return mark + _number(result.mean("capacity")), mark + _number(sum(rates) / len(rates))


def _differences(study: Study) -> Table:
    first = study.policies[0].policy
    rows = [
        (name if at == 0 else "", result.policy, _cell(name, found.mean), _interval(name, found))
        for name in SHOWN_DIFFERENCES
        for at, result in enumerate(study.policies[1:])
        for found in (study.difference(result, name),)
    ]
    heading = f"over {len(study.seeds)} seeds"
    return _table((heading, f"less {first}", "difference", "95 % interval (* leaves out 0)"), rows)


def _interval(name: str, found: Difference) -> str:
    return f"{_cell(name, found.low)} to {_cell(name, found.high)}{' *' if found.clear else '  '}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    first, *others = headings
    columns = [Column(first, no_wrap=True), *(Column(each, justify="right", overflow="fold") for each in others)]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _title(study: Study) -> str:
    requests = study.policies[0].runs[0].summary.requests
    seeds = f"seed {study.seeds[0]}" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    return f"{study.workload} × {study.rate_scale:g}, {requests} requests on {study.engines}, SLO {study.slo}, {seeds}"


def _cell(name: str, value: float) -> str:
    if name.startswith("tpot"):
        return f"{_number(1000 * value)} ms"
    if name.startswith(("ttft", "e2e")):
        return f"{_number(value)} s"
    if name.endswith("ratio"):
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if name == "imbalance" else f"{value:,.0f}"


def _number(value: float) -> str:
    """Three figures, and no more decimals than three."""
    if value != value:
        return "–"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
