"""Panels of a dashboard as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmgate.reports.style import Theme, pngs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]  # seconds since the beginning, value


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    scale: str  # of its values: log, or empty for linear from 0
    series: Sequence[Series]


def draw(panels: Sequence[Panel]) -> tuple[bytes, bytes]:
    """PNGs, light and dark."""

    def fill(canvas: Canvas, theme: Theme) -> None:
        rows = -(-len(panels) // COLUMNS)
        for panel, axes in zip(panels, canvas.subplots(rows, COLUMNS, sharex=True).flat, strict=True):
            for index, series in enumerate(panel.series):
                colour = theme.colours[index % len(theme.colours)]
                axes.plot(*zip(*series.points, strict=True), label=series.name, color=colour)
            axes.set_title(panel.title, loc="left")
            if panel.scale:
                axes.set_yscale(panel.scale)
            else:
                axes.set_ylim(bottom=0)
            axes.legend(loc="best", ncols=len(panel.series))
        canvas.supxlabel("seconds", color=theme.soft)

    return pngs(9.6, 7.2, fill)
