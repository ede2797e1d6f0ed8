from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgate.sim.capacity import Capacity
from llmgate.sim.record import RequestTable
from llmgate.sim.report import _throughput, write_report
from llmgate.sim.run import PolicyRun, simulate
from llmgate.sim.settings import Settings
from llmgate.sim.slo import Slo
from llmgate.sim.study import Study, run_study
from tests.sim.make import conversations, fleet

pytest.importorskip("matplotlib")

REFERENCE = "llmgate.sim.oracle:Oracle"


def study(*seeds: int, capacities: bool = False) -> Study:
    def run(policy: str, seed: int) -> PolicyRun:
        return simulate(conversations(6), fleet(), policy, settings=Settings(seed))

    def capacity(policy: str, seed: int) -> Capacity:
        return Capacity(2.0 + seed, 10.0, ())

    results = run_study(("round-robin", "oracle", REFERENCE), seeds, run, capacity if capacities else None)
    return Study(
        "dir/w.jsonl", tuple(fleet()), "2xh100:m", Slo(), 1.0, seeds, {"too long": 3}, ("9s kill e0",), results
    )


def test_a_study_is_a_page_with_a_picture_of_each_kind(tmp_path: Path) -> None:
    page = write_report(study(0, capacities=True), tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png") if not path.stem.endswith("-dark")}
    assert pictures == {
        *("ttft-cdf", "ttft-percentiles", "e2e-cdf", "e2e-percentiles"),
        *("prefix-hit-ratio", "goodput-ratio", "capacity", "throughput", "load"),
    }
    text = page.read_text()
    for shown in (
        "Policies on w.jsonl",
        "2xh100:m",
        "3: too long",
        "9s kill e0",
        ">Oracle<",
        ">oracle<",
        ">round-robin<",
    ):
        assert shown in text
    assert "Difference to" not in text  # one seed tells nothing of it


def test_several_seeds_are_compared_to_the_first_policy(tmp_path: Path) -> None:
    text = write_report(study(0, 1, 2), tmp_path).read_text()
    assert "Difference to round-robin" in text
    assert "Paired over 3 seeds" in text
    assert not (tmp_path / "capacity.png").exists()


def test_throughput_spreads_tokens_from_the_first_to_the_last() -> None:
    whole = np.array([1, 1, 1], dtype=np.int64)
    table = RequestTable(
        arrived=np.array([0.0, 0.0, 0.0]),
        first_token=np.array([0.0, 5.0, np.nan]),
        ended=np.array([10.0, 10.0, 3.0]),
        prompt_tokens=whole,
        output_tokens=np.array([100, 50, 7], dtype=np.int64),
        cached_tokens=whole,
        engine=whole,
        attempts=whole,
        ok=np.array([True, True, False]),
    )
    times, rates = _throughput(table)
    assert rates[times < 4.9] == pytest.approx(10.0)
    assert rates[times > 5.1] == pytest.approx(20.0)


def test_a_run_in_which_nothing_ended_has_no_throughput() -> None:
    none = np.zeros(0)
    ints = np.zeros(0, dtype=np.int64)
    table = RequestTable(none, none, none, ints, ints, ints, ints, ints, np.zeros(0, dtype=np.bool_))
    assert [len(part) for part in _throughput(table)] == [0, 0]
