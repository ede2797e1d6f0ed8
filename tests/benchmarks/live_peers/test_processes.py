from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.live_peers.engines import Counts
from benchmarks.live_peers.processes import Refused, running


def test_a_program_that_ends_before_it_serves_is_refused_with_where_to_look(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(Refused, match=rf"smg ended with 3 before it served; see {log}"),
        running("smg", [sys.executable, "-c", "raise SystemExit(3)"], "http://127.0.0.1:1", log),
    ):
        pytest.fail("it does not serve")


def test_counters_are_differenced_engine_by_engine() -> None:
    after, before = Counts(100, 40, 3, (5, 6)), Counts(60, 10, 1, (5, 2))
    assert after.since(before) == Counts(40, 30, 2, (0, 4))
