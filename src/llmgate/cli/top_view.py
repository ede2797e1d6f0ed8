"""A snapshot of a gateway as lines for a terminal of any width from 80 columns on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

Row = dict[str, Any]
"""An endpoint of a snapshot."""

STATES = {
    "up": ("●", "green"),
    "half_open": ("◐", "yellow"),
    "starting": ("○", "dim"),
    "down": ("✕", "red"),
    "ejected": ("⊘", "red"),
    "draining": ("↓", "yellow"),
}
BARS = "▁▂▃▄▅▆▇█"
HISTORY = 120
WIDE = 110
"""Columns from which on there is room for hits, GPUs and models."""
UNKNOWN = "–"


class _Column(NamedTuple):
    title: str
    show: Callable[[Row], str]
    value: Callable[[Row], float | None]
    wide: bool = False


def _gauge(name: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        gauges = row["gauges"]
        value: float | None = gauges[name] if gauges and gauges["fresh"] else None
        return value

    return of


def _rate(name: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        value: float | None = row["rates"][name]
        return value

    return of


def _ahead(row: Row) -> float:
    return float(row["in_flight"]["prefill_tokens"] + row["in_flight"]["decode_tokens"])


def _gpu(row: Row) -> float | None:
    used = [each["utilization"] for each in row["gpus"] if each["utilization"] is not None]
    return max(used) if used else None


def _columns() -> dict[str, _Column]:
    def column(
        title: str,
        shown: Callable[[float | None], str],
        value: Callable[[Row], float | None],
        *,
        wide: bool = False,
    ) -> _Column:
        return _Column(title, lambda row: shown(value(row)), value, wide)

    return {
        "load": column("fl", number, lambda row: row["in_flight"]["requests"]),
        "ahead": column("ahead", number, _ahead),
        "waiting": column("wait", number, _gauge("waiting")),
        "kv": column("KV", percent, _gauge("kv_usage")),
        "requests": column("req/s", rate, _rate("requests")),
        "tokens": column("tok/s", rate, _rate("output_tokens")),
        "ttft": column("p50", seconds, _rate("ttft_p50")),
        "p99": column("p99", seconds, _rate("ttft_p99")),
        "errors": column("err/s", rate, _rate("errors"), wide=True),
        "hits": column("hits", percent, _rate("prefix_hit_ratio"), wide=True),
        "gpu": column("GPU", percent, _gpu, wide=True),
    }


def number(value: float | None) -> str:
    """In at most five characters."""
    if value is None:
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * (10 if unit == "k" else 1):
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def rate(value: float | None) -> str:
    return UNKNOWN if value is None else number(value) if value >= 99.95 or not value else f"{value:.1f}"


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0%}"


def seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value * 1000:.0f}ms" if value < 0.9995 else f"{value:.1f}s" if value < 99.95 else f"{value:.0f}s"


def duration(value: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def sparkline(values: Iterable[float], width: int) -> str:
    """The last `width` of them, the tallest bar the largest of these; nothing for zero."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0)
    bars = (BARS[min(int(value / most * len(BARS)), len(BARS) - 1)] if value > 0 else " " for value in shown)
    return "".join(bars).rjust(width)


def clean(text: object) -> str:
    """Names come from engines and clients: none of them may move the cursor."""
    return "".join(each if each.isprintable() else "?" for each in str(text))


COLUMNS = _columns()
SORTS = ("name", *COLUMNS)


class Screen:
    """Remembers what sparklines are drawn of. `sort` is one of SORTS."""

    def __init__(self, sort: str = "load") -> None:
        self.sort = sort
        self._snapshot: dict[str, Any] | None = None
        self._loads: dict[str, deque[float]] = {}
        self._tokens: deque[float] = deque(maxlen=HISTORY)

    def take(self, snapshot: dict[str, Any]) -> None:
        """A snapshot as `/api/live` tells it."""
        if (history := snapshot["history"]) is not None:
            self._tokens = deque(history["totals"]["output_tokens"], HISTORY)
            self._loads = {name: deque(own["in_flight"], HISTORY) for name, own in history["endpoints"].items()}
        else:
            self._tokens.append(snapshot["totals"]["rates"]["output_tokens"])
            loads = {row["name"]: row["in_flight"]["requests"] for row in snapshot["endpoints"]}
            self._loads = {name: self._loads.get(name, deque(maxlen=HISTORY)) for name in loads}
            for name, load in loads.items():
                self._loads[name].append(load)
        self._snapshot = snapshot

    def next_sort(self) -> None:
        self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]

    def lines(self, console: Console, *, height: int | None = None, note: str = "") -> RenderableType:
        """`height`: lines that there are, None for as many as it takes; `note` is shown at the end."""
        snapshot = self._snapshot
        if snapshot is None:
            return Text(note)
        rows = self._sorted(snapshot["endpoints"])
        decisions = snapshot["decisions"]
        if height is not None:
            decisions = decisions[: max((height - len(rows) - 7), 3)]
            room = max(height - len(decisions) - 7, 1)
            hidden = len(rows) - room if len(rows) > room else 0
            if hidden:
                note = f"{hidden} more endpoints · {note}"
            rows = rows[:room]
        return Group(
            self._head(snapshot, console.width),
            self._fleet(rows, console.width),
            *([self._decisions(decisions)] if decisions else []),
            Text(note, style="dim", no_wrap=True, overflow="ellipsis"),
        )

    def _sorted(self, rows: Sequence[Row]) -> list[Row]:
        if self.sort == "name":
            return sorted(rows, key=lambda row: str(row["name"]))
        value = COLUMNS[self.sort].value
        return sorted(rows, key=lambda row: (-(value(row) or 0.0), str(row["name"])))

    def _head(self, snapshot: dict[str, Any], width: int) -> RenderableType:
        gateway, totals = snapshot["gateway"], snapshot["totals"]
        rates = totals["rates"]
        first = Text(no_wrap=True, overflow="ellipsis")
        first.append(f"llmgate {gateway['version']}", style="bold")
        first.append(f" · {clean(gateway['policy'])} · up {duration(gateway['uptime_seconds'])} · ")
        ready = totals["ready"] == totals["endpoints"]
        first.append(f"{totals['ready']} of {totals['endpoints']} ready", style="" if ready else "bold red")
        first.append(f" · {totals['in_flight']['requests']} in flight · {number(totals['waiting'])} waiting")
        if gateway["draining"]:
            first.append(" · stopping", style="bold yellow")
        second = Text(no_wrap=True, overflow="ellipsis")
        second.append(f"{rate(rates['requests'])} req/s · {rate(rates['output_tokens'])} tok/s · ")
        second.append(f"TTFT {seconds(rates['ttft_p50'])} p50, {seconds(rates['ttft_p99'])} p99 · ")
        failing = rates["errors"] + totals["rejected"]
        second.append(f"{rate(failing)} failed/s ", style="bold red" if failing else "")
        second.append(sparkline(self._tokens, max(width - len(second) - 1, 0)), style="cyan")
        return Group(first, second)

    def _fleet(self, rows: Sequence[Row], width: int) -> Table:
        wide = width >= WIDE
        shown = {name: column for name, column in COLUMNS.items() if wide or not column.wide}
        mark = "▾" if self.sort != "name" else ""
        table = Table(
            Column("endpoint", min_width=8, no_wrap=True, overflow="ellipsis", ratio=2),
            Column("state", no_wrap=True),
            *(
                Column(column.title + (mark if name == self.sort else ""), justify="right", no_wrap=True)
                for name, column in shown.items()
            ),
            Column("in flight", no_wrap=True, min_width=8),
            box=None,
            padding=(0, 1, 0, 0),
            expand=True,
            header_style="bold",
        )
        bars = 24 if wide else 8
        for row in rows:
            state = "draining" if row["draining"] and row["state"] == "up" else row["state"]
            sign, style = STATES.get(state, ("?", ""))
            word = {"half_open": "trial"}.get(state, state)
            table.add_row(
                Text(clean(row["name"])),
                Text(f"{sign} {clean(word)}", style=style),
                *(Text(column.show(row)) for column in shown.values()),
                Text(sparkline(self._loads.get(row["name"], ()), bars), style="cyan"),
            )
        return table

    def _decisions(self, decisions: Sequence[dict[str, Any]]) -> Table:
        table = Table(
            Column("last decisions", justify="right", no_wrap=True),
            Column("to", no_wrap=True, overflow="ellipsis", ratio=2),
            Column("model", no_wrap=True, overflow="ellipsis", ratio=2),
            Column("prompt", justify="right", no_wrap=True),
            Column("cached", justify="right", no_wrap=True),
            Column("cost", justify="right", no_wrap=True),
            Column("of", justify="right", no_wrap=True),
            box=None,
            padding=(0, 1, 0, 0),
            expand=True,
            header_style="bold",
            title="",
        )
        for each in decisions:
            tied = f" ({each['tied']} tied)" if each["tied"] > 1 else ""
            table.add_row(
                f"{each['age_seconds']:.1f} s ago" if each["age_seconds"] < 99.95 else duration(each["age_seconds"]),
                Text(clean(each["endpoint"])),
                Text(clean(each["model"])),
                number(each["prompt_tokens"]),
                number(each["cached_tokens"]),
                "∞" if each["cost"] is None else f"{each['cost']:.4g}",
                f"{each['candidates']}{tied}",
            )
        return table
