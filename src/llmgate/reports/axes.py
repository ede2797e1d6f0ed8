"""Axes and legends that read well: seconds as people say them, shares in percent, names beside their rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas


def seconds(value: float) -> str:
    """`250 ms`, `2.5 s`, `3 min`."""
    if value < 0.001:
        return f"{value * 1e6:.3g} µs"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"


def log_seconds(axis: Axis, lows: Iterable[float], highs: Iterable[float]) -> None:
    """A log scale from the lowest to the highest, with ticks at 1, 2, 5 where it is short, else at 1, 3."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(lows, default=0.1), max(highs, default=10.0)
    decades = math.log10(high / low) if high > low else 0.0
    axis.axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3.5 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
    axis.set_minor_formatter(NullFormatter())


def percent(axis: Axis) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def names(plot: Axes, rows: Sequence[str]) -> None:
    """Rows from above, each by its name in the colour of the text."""
    plot.set_yticks(range(len(rows)), rows)
    plot.tick_params(axis="y", length=0, labelcolor=plot.title.get_color())
    plot.set_ylim(max(1, len(rows)) - 0.5, -0.5)


def legend(canvas: Canvas, plot: Axes, *, columns: int | None = None) -> None:
    """Below the plot, if there is more than one row."""
    handles, labels = plot.get_legend_handles_labels()
    if len(labels) > 1:
        width = max(len(label) for label in labels) * 0.085 + 0.6
        fit = max(1, int(canvas.get_figwidth() / width))
        canvas.legend(
            handles, labels, loc="outside lower center", ncols=columns or min(fit, len(labels)), handlelength=2.4
        )
