"""Plots of a report: data in, pictures out. Rows are drawn in the order given, in the looks of the whole report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmgate.reports import axes
from llmgate.reports.report import Figure
from llmgate.reports.style import Looks, Theme, pngs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Numbers = Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]
Series = tuple[Numbers, Numbers]
"""(times in seconds, values)."""

HALF, WHOLE = 6.2, 12.2
"""Widths in inches: one of the page's two columns, or both."""

POINTS = 500
"""Of a distribution: more than there are pixels helps nobody."""

MOMENTS = 150
"""Of a curve over time, each the mean over its part: what moves faster hides what the plot is to show."""


def cdf(rows: Mapping[str, Numbers], looks: Looks, *, name: str, title: str, label: str, caption: str = "") -> Figure:
    """Which share of the requests had at most so many seconds: a curve each of `rows` (name → seconds), time as log.

    Values that are not above 0 or not finite are left out: a failed request has no latency.
    """
    drawn = {row: _sorted(values) for row, values in rows.items()}
    drawn = {row: values for row, values in drawn.items() if len(values)}

    def draw(canvas: Canvas, theme: Theme) -> None:
        plot = canvas.add_subplot()
        for row, values in drawn.items():
            share = np.linspace(0, 1, min(POINTS, len(values)))
            at = values[np.round(share * (len(values) - 1)).astype(int)]
            plot.plot(at, share, color=looks.colour(row, theme), linestyle=looks.line(row), label=row)
        axes.log_seconds(plot.xaxis, [values[0] for values in drawn.values()], [v[-1] for v in drawn.values()])
        plot.set_xlabel(label)
        plot.set_ylim(0, 1.005)
        axes.percent(plot.yaxis)
        plot.set_ylabel("share of requests")
        axes.legend(canvas, plot)

    medians = {row: float(np.median(values)) for row, values in drawn.items()}
    alt = f"Cumulative distribution of {label}. Median: {_told(medians, axes.seconds)}."
    return Figure(name, title, alt, *pngs(HALF, _height(4.0, len(drawn)), draw), caption)


def percentiles(
    rows: Mapping[str, Mapping[str, float]], looks: Looks, *, name: str, title: str, label: str, caption: str = ""
) -> Figure:
    """A line each of `rows` (name → {"p50": seconds, …}), with a mark and a size of its own at each percentile."""
    marks = ("o", "D", "s", "^", "v", "P")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))

    def draw(canvas: Canvas, theme: Theme) -> None:
        plot = canvas.add_subplot()
        for place, (row, values) in enumerate(rows.items()):
            points = [values[column] for column in columns if values.get(column, 0) > 0]
            colour = looks.colour(row, theme)
            if points:
                plot.plot([min(points), max(points)], [place, place], color=colour, linewidth=1.5, alpha=0.6)
            for column, mark in zip(columns, marks, strict=False):
                if values.get(column, 0) > 0:
                    plot.plot(values[column], place, mark, color=colour, markersize=7)
        for column, mark in zip(columns, marks, strict=False):
            plot.plot([], [], mark, color=theme.soft, label=column)
        every = [value for values in rows.values() for value in values.values() if value > 0]
        axes.log_seconds(plot.xaxis, every, every)
        plot.set_xlabel(label)
        axes.names(plot, list(rows))
        axes.legend(canvas, plot, columns=len(columns))

    first = columns[0] if columns else ""
    alt = (
        f"Percentiles of {label}. {first}: {_told({r: v[first] for r, v in rows.items() if first in v}, axes.seconds)}."
    )
    return Figure(name, title, alt, *pngs(HALF, 1.4 + 0.27 * len(rows), draw), caption)


def bars(
    rows: Mapping[str, float],
    looks: Looks,
    *,
    name: str,
    title: str,
    label: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    percent: bool = False,
    caption: str = "",
) -> Figure:
    """A bar each of `rows`, its number beside it, and its interval (low, high) as a whisker where there is one."""
    whiskers = intervals or {}
    form: Callable[[float], str] = ("{:.1%}" if percent else "{:.3g}").format

    def draw(canvas: Canvas, theme: Theme) -> None:
        plot = canvas.add_subplot()
        for place, (row, value) in enumerate(rows.items()):
            plot.barh(place, value, height=0.66, color=looks.colour(row, theme), alpha=0.85)
            low, high = whiskers.get(row, (value, value))
            if row in whiskers:
                for colour, width in ((theme.card, 3.5), (theme.ink, 1.3)):  # an edge, for bars that are of ink too
                    plot.plot([low, high], [place, place], color=colour, linewidth=width, marker="|", markersize=8)
            plot.annotate(
                form(value), (max(value, high), place), (6, 0), textcoords="offset points", va="center", fontsize=10
            )
        plot.set_xlabel(label)
        plot.margins(x=0.14)
        plot.set_xlim(left=0.0)
        plot.grid(False, axis="y")
        if percent:
            axes.percent(plot.xaxis)
        axes.names(plot, list(rows))

    alt = f"{label[:1].upper()}{label[1:]}: {_told(rows, form)}."
    return Figure(name, title, alt, *pngs(HALF, 1.1 + 0.27 * len(rows), draw), caption)


def timeline(
    rows: Mapping[str, Series], looks: Looks, *, name: str, title: str, label: str, caption: str = ""
) -> Figure:
    """A curve each of `rows` over time, from 0 up."""

    def draw(canvas: Canvas, theme: Theme) -> None:
        plot = canvas.add_subplot()
        for row, (times, values) in rows.items():
            plot.plot(*_thinned(times, values), color=looks.colour(row, theme), linestyle=looks.line(row), label=row)
        plot.set_xlabel("time (s)")
        plot.set_ylabel(label)
        plot.set_ylim(bottom=0)
        plot.margins(x=0.01)
        axes.legend(canvas, plot)

    means = {row: float(np.mean(values)) for row, (_, values) in rows.items() if len(values)}
    alt = f"{label[:1].upper()}{label[1:]} over time. Mean: {_told(means, '{:.3g}'.format)}."
    return Figure(name, title, alt, *pngs(WHOLE, _height(3.6, len(rows)), draw), caption, wide=True)


def engines_over_time(
    rows: Mapping[str, Mapping[str, Series]], looks: Looks, *, name: str, title: str, label: str, caption: str = ""
) -> Figure:
    """A panel each of `rows` (name → engine → series), all on one scale: every engine a thin line, their mean a thick
    one. What is close together is balanced."""
    columns = min(3, max(1, len(rows)))
    height = max(1, -(-len(rows) // columns))

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = list(canvas.subplots(height, columns, sharex=True, sharey=True, squeeze=False).flat)
        for panel, (row, engines) in zip(panels, rows.items(), strict=False):
            for times, values in engines.values():
                panel.plot(*_thinned(times, values), color=looks.colour(row, theme), linewidth=0.9, alpha=0.55)
            if len(engines) > 1:
                panel.plot(*_mean(engines), color=theme.ink, linewidth=1.5)
            panel.set_title(row, loc="left")
            panel.margins(x=0.01)
        for panel in panels[len(rows) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(rows) - columns) : len(rows)]:
            panel.tick_params(labelbottom=True)
        panels[0].set_ylim(bottom=0)  # of all, and last: it ends the scaling
        canvas.supxlabel("time (s)", fontsize=10.5, color=theme.soft)
        canvas.supylabel(label, fontsize=10.5, color=theme.soft)

    peaks = {
        row: max((float(np.max(values)) for _, values in engines.values() if len(values)), default=0.0)
        for row, engines in rows.items()
    }
    alt = f"{label[:1].upper()}{label[1:]} of each engine over time. Highest: {_told(peaks, '{:.3g}'.format)}."
    return Figure(name, title, alt, *pngs(WHOLE, 0.7 + 1.75 * height, draw), caption, wide=True)


def _sorted(values: Numbers) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    return np.sort(array[np.isfinite(array) & (array > 0)])


def _thinned(times: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Means of equal parts where there are more points than MOMENTS."""
    step = -(-len(times) // MOMENTS)
    if step <= 1:
        return times, values
    whole = len(times) // step * step
    return tuple(np.asarray(a[:whole], dtype=np.float64).reshape(-1, step).mean(axis=1) for a in (times, values))


def _mean(engines: Mapping[str, Series]) -> Series:
    """Over engines, on the times of the longest series; one that was not there (before its first, after its last) does
    not count."""
    times = np.asarray(max((series[0] for series in engines.values()), key=len), dtype=np.float64)
    each = [np.interp(times, at, values, left=np.nan, right=np.nan) for at, values in engines.values() if len(at)]
    there = ~np.isnan(each)
    counted = there.sum(axis=0)
    total = np.where(there, each, 0.0).sum(axis=0)
    return _thinned(times[counted > 0], total[counted > 0] / counted[counted > 0])


def _height(least: float, rows: int) -> float:
    """Room for a legend below the plot, two or three rows to a line of it."""
    return least + 0.22 * (-(-rows // 2))


def _told(rows: Mapping[str, float], form: Callable[[float], str]) -> str:
    return ", ".join(f"{row} {form(value)}" for row, value in rows.items()) or "nothing"
