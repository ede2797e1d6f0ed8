"""How plots look: one colour and line style a name, the same in every plot of a report; light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from llmgate.reports.report import ReportError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DPI = 100
"""Shown at 100 %, a dot is a pixel; widths in inches below are chosen for the page's columns."""

LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True, slots=True)
class Theme:
    card: str
    ink: str
    soft: str
    line: str
    colours: tuple[str, ...]


# Okabe and Ito's colours for the colour-blind (jfly.uni-koeln.de/color), without their yellow, which is too faint for
# lines on white; in the dark the same hues, lighter where they would sink into the background.
LIGHT = Theme(
    "#ffffff", "#1b1f24", "#57606a", "#d0d7de", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
)
DARK = Theme(
    "#161b22", "#e6edf3", "#9da7b3", "#30363d", ("#4AA3DF", "#F07F3C", "#2FC49A", "#E09CC3", "#F0B429", "#8FD0F5")
)


@dataclass(frozen=True, slots=True)
class Look:
    colour: int  # of the theme's colours; -1: ink
    line: str


class Looks:
    """Name → its colour and line style. Give all names of a report, in the order of its tables; one serves all plots.

    Names in `ink` (bounds such as the oracle) are black, or white in the dark.
    """

    def __init__(self, names: Iterable[str], *, ink: Iterable[str] = ()) -> None:
        colours = len(LIGHT.colours)
        inks = set(ink)
        coloured = [name for name in dict.fromkeys(names) if name not in inks]
        self._looks = {name: Look(k % colours, LINES[k // colours % len(LINES)]) for k, name in enumerate(coloured)} | {
            name: Look(-1, "-") for name in inks
        }

    def colour(self, name: str, theme: Theme) -> str:
        look = self._looks[name]
        return theme.ink if look.colour < 0 else theme.colours[look.colour]

    def line(self, name: str) -> str:
        return self._looks[name].line


def pngs(width: float, height: float, draw: Callable[[Canvas, Theme], None]) -> tuple[bytes, bytes]:
    """(light, dark): `draw` fills a canvas of this size (inches). Raises ReportError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ReportError("reports with pictures need matplotlib: pip install 'llmgate-lb[sim]'") from error
    pictures = []
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(cast(Any, _settings(theme))):
            canvas = Canvas(figsize=(width, height), dpi=DPI, layout="constrained")
            FigureCanvasAgg(canvas)
            draw(canvas, theme)
            file = BytesIO()
            canvas.savefig(file, format="png", metadata={"Software": None})  # the same plot is the same file
            pictures.append(file.getvalue())
    return pictures[0], pictures[1]


def _settings(theme: Theme) -> dict[str, object]:
    return {
        "figure.facecolor": theme.card,
        "axes.facecolor": theme.card,
        "savefig.facecolor": theme.card,
        "text.color": theme.ink,
        "axes.labelcolor": theme.soft,
        "axes.titlecolor": theme.ink,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "axes.edgecolor": theme.line,
        "grid.color": theme.line,
        "grid.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
        "font.size": 10.5,
        "axes.labelsize": 10.5,
        "axes.titlesize": 10.5,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }
