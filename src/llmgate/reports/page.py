"""A report as files: `index.html`, which needs nothing but the pictures beside it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from llmgate import __version__
from llmgate.reports.report import Cell, Column, Report, ReportError, Table

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
NOTHING = "–"


def write(report: Report, directory: Path) -> Path:
    """Make the directory if need be, write the page and its pictures, and return the page's path.

    Files of the same names are replaced, others left alone. Raises ReportError if something cannot be written.
    """
    names = [figure.name for figure in report.figures]
    if wrong := [name for name in names if not _NAME.fullmatch(name) or names.count(name) > 1]:
        raise ReportError(f"names of figures must be file names and each another's: {wrong[0]!r} is not")
    page = directory / "index.html"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for figure in report.figures:
            (directory / f"{figure.name}.png").write_bytes(figure.light)
            (directory / f"{figure.name}-dark.png").write_bytes(figure.dark)
        page.write_text(html(report), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"the report cannot be written to {directory}: {error.strerror or error}") from error
    return page


def html(report: Report) -> str:
    """The page. Text is escaped: names of engines, policies and files are anyone's."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("llmgate.reports").joinpath("page.html").read_text(encoding="utf-8")
    tables = [(table, _rows(table)) for table in report.tables]
    return environment.from_string(template).render(report=report, tables=tables, version=__version__)


def _rows(table: Table) -> list[list[tuple[str, bool]]]:
    """(text, whether it is the best) of each cell."""
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ReportError(f"table {table.title!r}: a row of {len(row)} cells for {len(table.columns)} columns")
    bests = [_best(column, [row[k] for row in table.rows]) for k, column in enumerate(table.columns)]
    return [
        [
            (text := _text(cell, column), isinstance(cell, int | float) and text == best)
            for cell, column, best in zip(row, table.columns, bests, strict=True)
        ]
        for row in table.rows
    ]


def _best(column: Column, cells: list[Cell]) -> str | None:
    """The best number as it is shown: equal as far as can be seen is equally good. None if all are."""
    numbers = [cell for cell in cells if isinstance(cell, int | float) and cell == cell]
    if column.best is None or len({_text(number, column) for number in numbers}) < 2:
        return None
    return _text(min(numbers) if column.best == "lowest" else max(numbers), column)


def _text(cell: Cell, column: Column) -> str:
    if cell is None or cell != cell:
        return NOTHING
    return cell if isinstance(cell, str) else format(cell, column.form)
