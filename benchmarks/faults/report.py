"""What a run showed: figures by name, as JSON and as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.faults.client import Outcome, Tally

Figure = int | float | str
MIB = 1024 * 1024


def figures(tally: Tally) -> dict[str, Figure]:
    shown: dict[str, Figure] = {"requests sent": tally.sent}
    shown |= {outcome.value: tally.outcomes[outcome] for outcome in Outcome}
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items()))
    return shown | {"errors by status": statuses or "none", "sent again, idle connection closed": tally.resent}


def slope(samples: Sequence[tuple[int, int]]) -> float:
    """MiB in 100,000 requests, of the second half of samples of (requests, RSS in bytes): the first warms up. Least
    squares."""
    points = samples[len(samples) // 2 :]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread * 100_000 / MIB if spread else 0.0


def markdown(columns: Mapping[str, Mapping[str, Figure]]) -> str:
    """A column for each run."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        cells = [str(column.get(name, "–")) for column in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
