from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from benchmarks.routing_tables import cells
from benchmarks.routing_tables.__main__ import BEGIN, END, _insert
from benchmarks.routing_tables.cells import Cell, figures
from benchmarks.routing_tables.tables import (
    COLUMNS,
    PERCENTILES,
    Samples,
    against,
    capacity_table,
    gap_closed,
    ratios,
    standing,
    table,
)


def samples(ttft: list[float]) -> Samples:
    return {figure: ttft if figure == "ttft.mean" else [1.0] * len(ttft) for _, figure, *_ in COLUMNS}


def test_the_gap_is_0_at_the_best_peer_1_at_the_oracle_and_below_0_beyond_the_peer() -> None:
    assert gap_closed(4.0, best_peer=4.0, oracle=2.0) == 0.0
    assert gap_closed(2.0, best_peer=4.0, oracle=2.0) == 1.0
    assert gap_closed(5.0, best_peer=4.0, oracle=2.0) == -0.5
    assert gap_closed(4.0, best_peer=2.0, oracle=2.0) is None


def test_a_difference_is_a_share_of_the_baseline_with_half_its_interval() -> None:
    """Differences -2 and -4 of a mean of 10: -30 %; deviation 1.414, t 12.706, so half is 12.706 of 10."""
    assert against([8.0, 6.0], [10.0, 10.0]) == "−30 ± 127 %"
    assert against([9.95, 9.95], [10.0, 10.0]) == "−0.5 ± 0.0 %"
    assert against([9.0, 10.9], [10.0, 10.0]) == "+0 ± 121 %", "not −0"


def test_the_best_peer_is_chosen_for_each_column() -> None:
    rows = {
        "low": {
            "ours": samples([3.0, 3.0]),
            "a": samples([4.0, 4.0]),
            "b": samples([5.0, 5.0]),
            "oracle": samples([2.0, 2.0]),
        },
        "high": {
            "ours": samples([9.0, 9.0]),
            "a": samples([9.0, 9.0]),
            "b": samples([8.0, 8.0]),
            "oracle": samples([7.0, 7.0]),
        },
    }
    text = standing(rows, ["a", "b"], "oracle")
    assert "| *best peer* | *a, 4.00 s* | *b, 8.00 s* |" in text
    assert "| ours | 50 % | −100 % |" in text
    assert "| a | 0 % | −100 % |" in text


def test_a_table_has_the_baseline_and_what_others_are_against_it() -> None:
    text = table({"lc": samples([4.0, 4.0]), "ours": samples([3.0, 3.0])}, "lc").splitlines()
    assert len({line.count("|") for line in text}) == 1
    assert text[3].startswith("| ours | 3.00 | −25.0 ± 0.0 % |")


def test_ratios_are_of_the_peer_with_the_lowest_mean_and_of_the_baseline() -> None:
    def row(ttft: float, worst: float) -> Samples:
        parts = {f"{figure}.{part}": [1.0] for figure in ("ttft", "tpot", "e2e") for part in PERCENTILES}
        return {**parts, "ttft.mean": [ttft], "e2e.mean": [2.0], "tpot.p95": [worst]}

    rows = {"ours": row(3.0, 1.5), "a": row(4.0, 1.0), "b": row(5.0, 1.0), "lc": row(6.0, 1.0), "oracle": row(2.0, 1.0)}
    text = ratios({"low": rows}, ["a", "b"], "ours", "lc", "oracle")
    assert "| *best peer* | *a* |" in text
    assert "| mean TTFT, best peer | 0.75 |" in text
    assert "| *the oracle's mean TTFT, best peer* | 0.50 |" in text
    assert "| the worst percentile of TTFT, TPOT, E2E, best peer | 1.50 |" in text
    assert "| p90 TTFT, lc | 1.00 |" in text


def test_a_capacity_is_told_as_a_part_of_the_best_peers() -> None:
    text = capacity_table({"ours": {"x": 3.0}, "a": {"x": 2.0}, "b": {"x": 1.0}}, ["a", "b", "c"])
    assert "| ours | 3.00 (1.50) |" in text
    assert "| a | 2.00 (1.00) |" in text


def test_tables_are_written_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    _insert(page, r"new \1")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew \\1\n\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(click.ClickException, match="has no lines"):
        _insert(page, "new")


def test_what_was_run_before_is_read(tmp_path: Path) -> None:
    cell = Cell("mooncake", "round-robin", 1.0, 0)
    path = cells._path(cell, tmp_path)
    path.write_text(json.dumps({"ttft.mean": 1.5}))
    assert figures([cell], tmp_path, 1) == {cell: {"ttft.mean": 1.5}}
    assert cells._path(Cell("mooncake", "round-robin", 1.0, 1), tmp_path) != path


def test_a_row_with_kv_events_is_its_policy_with_engines_that_tell() -> None:
    told = Cell("mooncake", "expected-latency, KV events", 1.0, 3)
    assert (told.policy, told.settings.kv_events, told.settings.seed) == ("expected-latency", True, 3)
    assert not Cell("mooncake", "expected-latency", 1.0, 3).settings.kv_events
    assert Cell("mooncake", "llm-d default", 1.0, 3).settings.scrape_period == 0.05
