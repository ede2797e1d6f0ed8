"""The figures as tables, for a terminal and for the docs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.overhead.measure import HELD, RATE, Row

Cells = list[list[str]]

COST = (
    ("1 KB", "us_per_request_1kb", 0),
    ("32 KB", "us_per_request_32kb", 0),
    ("128 KB", "us_per_request_128kb", 0),
    ("an SSE chunk", "us_per_chunk", 1),
    ("requests/s at 1 KB", "rps_1kb", 0),
    ("ready after, s", "ready_s", 2),
    ("RSS, MB", "rss_mb", 0),
    *((f"KB a stream at {streams:,}", f"kb_per_stream_{streams}", 0) for streams in HELD),
)
DELAY = tuple(
    (f"{what} p{percent}", f"{name}_p{percent}_us")
    for what, name in (("whole answer", "whole"), ("TTFT", "ttft"), ("between chunks", "gap"))
    for percent in (50, 99)
)
DIRECT = "direct"


def cost(rows: dict[str, Row]) -> Cells:
    """µs of CPU time, and what else a gateway takes."""
    cells = [["", *(title for title, _, _ in COST)]]
    for name, row in rows.items():
        if name != DIRECT:
            cells.append([name, *(f"{row[key]:,.{digits}f}" if key in row else "–" for _, key, digits in COST)])
    return cells


def delay(rows: dict[str, Row]) -> Cells:
    """ms that a gateway adds at RATE requests a second; of the engines themselves, without one, what they take."""
    direct = rows.get(DIRECT, {})
    cells = [[f"ms at {RATE}/s", *(title for title, _ in DELAY)]]
    for name, row in rows.items():
        base = {} if name == DIRECT else direct
        sign = "" if name == DIRECT else "+"
        cells.append(
            [name, *(f"{(row[key] - base.get(key, 0)) / 1e3:{sign}.2f}" if key in row else "–" for _, key in DELAY)]
        )
    return cells


def markdown(cells: Cells) -> str:
    head, *rows = cells
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich(title: str, cells: Cells) -> Table:
    head, *rows = cells
    table = Table(title=title)
    for column in head:
        table.add_column(column, justify="right" if column != head[0] else "left")
    for row in rows:
        table.add_row(*row)
    return table


def troubles(rows: dict[str, Row]) -> Sequence[str]:
    return [f"{name}: {text}" for name, row in rows.items() for text in row["trouble"]]
