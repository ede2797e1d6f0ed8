from __future__ import annotations

from pathlib import Path

import pytest

from llmgate.bench.report import write_report
from tests.bench.test_summary import record, summary


@pytest.mark.parametrize(("seconds", "drawn"), [(0.1, False), (1.5, True)])
def test_only_a_run_long_enough_for_a_curve_is_drawn_over_time(seconds: float, drawn: bool, tmp_path: Path) -> None:
    """One point makes an empty picture."""
    pytest.importorskip("matplotlib")
    records = [record(n, 0.0, 0.01, seconds * n / 4, ended=seconds * n / 4) for n in (1, 2, 3, 4)]
    write_report(summary(records), records, tmp_path)
    assert [(tmp_path / f"{name}.png").exists() for name in ("ttft", "tokens", "requests")] == [True, drawn, drawn]
