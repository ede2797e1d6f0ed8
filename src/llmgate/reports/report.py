"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Cell = str | float | int | None


class ReportError(Exception):
    """One sentence for the user: what is missing, or what cannot be written."""


@dataclass(frozen=True, slots=True)
class Column:
    """`form` is a format specification for numbers (`.3g`, `.1%`); with `best`, the column's best number is bold."""

    title: str
    form: str = ".3g"
    best: Literal["lowest", "highest"] | None = None
    help: str = ""  # what it is, in a sentence: shown on hovering and read by screen readers


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of as many cells as there are columns; None is shown as a dash."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture for light pages and one for dark ones. `name` is the file's, without `.png`; `alt` is its text."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes
    caption: str = ""
    wide: bool = False  # takes the whole width of the page


@dataclass(frozen=True, slots=True)
class Report:
    """A page: what was done (`facts`: name → value, in order), then tables and figures. Plain text throughout."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    summary: str = ""  # a sentence or two below the title
