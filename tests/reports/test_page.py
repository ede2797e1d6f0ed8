from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmgate.reports import Column, Figure, Report, ReportError, Table, html, write

FIGURE = Figure("ttft", "Time to first token", "What is seen", b"light", b"dark", caption="Below it")
TABLE = Table(
    "Policies",
    [Column("policy"), Column("TTFT (s)", ".2f", "lowest", "to the first token"), Column("hits", ".1%", "highest")],
    [
        ("round-robin", 1.234, 0.25),
        ("prefix-affinity", 0.801, 0.5),
        ("other", 0.799, None),
        ("none", float("nan"), 0.1),
    ],
    note="Two seeds.",
)


class Cells(HTMLParser):
    """(class, text) of every cell of a table's body; the tags that were left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[tuple[str | None, str]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img", "source"}:
            self.open.append(tag)
        if tag == "td":
            self.cells.append((dict(attrs).get("class"), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells[-1] = (self.cells[-1][0], self.cells[-1][1] + data)


def test_a_report_is_a_page_with_its_pictures_beside_it(tmp_path: Path) -> None:
    page = write(Report("A title", [("seed", "1")], [TABLE], [FIGURE], "Summary."), tmp_path / "new" / "dir")
    assert page == tmp_path / "new" / "dir" / "index.html"
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "ttft.png", "ttft-dark.png"}
    assert (page.parent / "ttft-dark.png").read_bytes() == b"dark"
    text = page.read_text()
    for shown in (
        "A title",
        "Summary.",
        "seed",
        "Policies",
        "Two seeds.",
        "Time to first token",
        "What is seen",
        "Below it",
    ):
        assert shown in text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = html(Report("t", [("url", "http://example.org")], [TABLE], [FIGURE]))
    assert re.findall(r'(?:src|href|srcset)="([^"]*)"', page) == ["ttft-dark.png", "ttft.png"]
    assert "<script" not in page
    assert "@import" not in page
    assert not Cells(page).open


def test_the_best_of_a_column_is_marked_as_far_as_can_be_seen() -> None:
    assert Cells(html(Report("t", tables=[TABLE]))).cells == [
        (None, "1.23"),
        (None, "25.0%"),
        ("best", "0.80"),
        ("best", "50.0%"),
        ("best", "0.80"),
        (None, "–"),
        (None, "–"),
        (None, "10.0%"),
    ]


def test_nothing_is_best_where_all_are_equal() -> None:
    table = Table("t", [Column("a"), Column("b", ".0f", "lowest")], [("x", 0), ("y", 0.1)])
    assert "best" not in {name for name, _ in Cells(html(Report("t", tables=[table]))).cells}


def test_text_cannot_become_markup() -> None:
    evil = "<script>alert('\"&')</script>"
    figure = Figure("f", evil, evil, b"", b"", caption=evil)
    table = Table(evil, [Column(evil, help=evil), Column("n")], [(evil, evil)], note=evil)
    page = html(Report(evil, [(evil, evil)], [table], [figure], evil))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 15


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    with pytest.raises(ReportError, match="'t': a row of 1 cells for 2 columns"):
        html(Report("r", tables=[Table("t", [Column("a"), Column("b")], [("x",)])]))


@pytest.mark.parametrize("name", ["../up", "A b", "", "a/b"])
def test_names_of_figures_are_names_of_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReportError, match="names of figures"):
        write(Report("t", figures=[Figure(name, "t", "a", b"", b"")]), tmp_path)


def test_two_figures_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="'ttft' is not"):
        write(Report("t", figures=[FIGURE, FIGURE]), tmp_path)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot be written to .*file"):
        write(Report("t"), tmp_path / "file")
