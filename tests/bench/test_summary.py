from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmgate.bench.compare import as_data, differences
from llmgate.bench.errors import BenchError
from llmgate.bench.histogram import Distribution, quantiles
from llmgate.bench.record import ABORTED, Record
from llmgate.bench.result import Result, encode, read_result
from llmgate.bench.slo import Slo
from llmgate.bench.summary import summarise


def record(index: int, at: float, *arrivals: float, ended: float, tokens: int | None = None, **changes: Any) -> Record:
    made = Record(index, at, asked_prompt_tokens=100, sent=at, ended=ended, arrivals=array("d", arrivals))
    made.prompt_tokens, made.output_tokens = 110, len(arrivals) if tokens is None else tokens
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def summary(records: Sequence[Record], slo: Slo | None = None, **changes: Any) -> Result:
    given: dict[str, Any] = {
        "model": "m",
        "parameters": {},
        "open_loop": True,
        "ended_early": False,
        "run_s": 10.0,
        "cpu_s": 1.0,
        **changes,
    }
    return summarise(records, slo=slo, **given)


def test_latencies_count_from_the_intended_time_and_the_lag_is_told() -> None:
    result = summary([record(0, 1.0, 3.0, 3.5, 4.5, ended=5.0, sent=2.0)])
    assert result.ttft is not None
    assert result.ttft.mean == 2.0
    assert result.e2e is not None
    assert result.e2e.mean == 4.0
    assert result.tpot is not None
    assert result.tpot.mean == pytest.approx((4.0 - 2.0) / 2)
    assert result.itl is not None
    assert (result.itl.count, result.itl.mean, result.itl.max) == (2, 0.75, 1.0)
    assert result.generator.lag is not None
    assert result.generator.lag.mean == 1.0
    assert any("was late by 1000 ms" in warning for warning in result.warnings)


def test_tokens_by_usage_decide_the_tpot_whatever_the_number_of_events() -> None:
    result = summary([record(0, 0.0, 1.0, 2.0, ended=4.0, tokens=7)])
    assert result.tpot is not None
    assert result.tpot.mean == 0.5
    assert result.tokens.per_event == 3.5
    assert result.tokens.counted_by == {"usage": 1}


def test_warm_up_errors_and_what_was_cut_off_are_in_no_latency() -> None:
    result = summary(
        [
            record(0, 0.0, 9.0, ended=9.0, warmup=True),
            record(1, 1.0, 2.0, ended=2.0),
            record(2, 1.0, 2.0, ended=3.0, error="http_503", message="full"),
            record(3, 1.0, ended=8.0, error=ABORTED),
        ],
        ended_early=True,
    )
    assert (result.requests, result.succeeded, result.failed, result.warmup, result.aborted) == (2, 1, 1, 1, 1)
    assert result.e2e is not None
    assert result.e2e.max == 1.0
    assert result.duration_s == 2.0
    assert result.throughput.requests_per_s == 0.5
    assert result.errors == {"http_503": 1}
    assert result.error_examples == {"http_503": "full"}


def test_goodput_counts_failures_as_bad() -> None:
    good, slow = record(0, 0.0, 1.0, ended=2.0), record(1, 0.0, 3.0, ended=4.0)
    failed = record(2, 0.0, 0.1, ended=0.2, error="broken")
    result = summary([good, slow, failed], Slo(ttft=2.0))
    assert result.goodput is not None
    assert result.goodput.slo == {"ttft": 2.0}
    assert result.goodput.ratio == pytest.approx(1 / 3)
    assert result.goodput.requests_per_s == pytest.approx(1 / 4)


def test_what_is_not_streamed_has_no_ttft() -> None:
    result = summary([record(0, 0.0, ended=2.0, tokens=5, streamed=False)])
    assert (result.ttft, result.itl, result.tpot) == (None, None, None)
    assert result.e2e is not None
    assert result.throughput.output_tokens_per_s == 2.5


def test_tokens_that_were_counted_as_events_are_marked() -> None:
    result = summary([record(0, 0.0, 1.0, 2.0, ended=2.0, counted=True), record(1, 0.0, 1.0, ended=2.0)])
    assert result.tokens.counted_by == {"usage": 1, "events": 1}
    assert any("counted as events" in warning for warning in result.warnings)


def test_prompt_tokens_are_those_asked_for_where_the_server_tells_none() -> None:
    result = summary([record(0, 0.0, 1.0, ended=1.0), record(1, 0.0, 1.0, ended=1.0, prompt_tokens=None)])
    assert result.tokens.prompt == 210
    assert result.tokens.prompt_ratio == pytest.approx(1.1)


def test_a_busy_generator_is_told_of_in_a_closed_loop_only() -> None:
    records = [record(0, 0.0, 1.0, ended=1.0, prompt_tokens=100)]
    assert any("of a core" in warning for warning in summary(records, open_loop=False, cpu_s=9.5).warnings)
    assert summary(records, cpu_s=9.5).warnings == []


def test_the_timeline_holds_every_answer_and_token() -> None:
    result = summary([record(n, float(n), n + 0.5, n + 1.5, ended=n + 2.0, tokens=10) for n in range(5)])
    assert sum(interval.requests for interval in result.timeline) == 5
    assert sum(interval.output_tokens for interval in result.timeline) == pytest.approx(50)
    assert [interval.begin for interval in result.timeline] == [n / 2 for n in range(13)]


def test_a_long_run_has_longer_intervals() -> None:
    result = summary([record(0, 0.0, 1.0, ended=86_000.0)])
    assert result.interval_s == 1800
    assert len(result.timeline) <= 120


def test_nothing_measured_is_a_result_too() -> None:
    result = summary([])
    assert (result.requests, result.ttft, result.timeline, result.duration_s) == (0, None, [], 0.0)


def test_percentiles_are_those_of_the_values_to_three_digits() -> None:
    stats = Distribution(n / 1000 for n in range(1, 1001)).stats()
    assert stats is not None
    assert (stats.count, stats.max) == (1000, 1.0)
    assert stats.mean == pytest.approx(0.5005)
    assert [stats.p50, stats.p90, stats.p95, stats.p99] == pytest.approx([0.5, 0.9, 0.95, 0.99], rel=2e-3)


def test_no_percentile_is_above_the_maximum() -> None:
    stats = Distribution([0.4298765]).stats()
    assert stats is not None
    assert stats.p99 == stats.max == 0.4298765


def test_a_stored_distribution_gives_its_quantiles_back() -> None:
    encoded = Distribution(n / 1000 for n in range(1, 1001)).encoded()
    found = {share: seconds for seconds, share in quantiles(encoded)}
    assert found[0.5] == pytest.approx(0.5, rel=2e-3)
    assert found[1.0] == pytest.approx(1.0, rel=2e-3)


# Files -----------------------------------------------------------------------------------------------------------


def written(path: Path, result: Result) -> Path:
    path.write_bytes(encode(result))
    return path


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = summary([record(0, 0.0, 1.0, 2.0, ended=2.0)], Slo(ttft=1.0), parameters={"rate": 2.0})
    assert read_result(written(tmp_path / "a.json", result)) == result


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "missing required field"), ("no", ""), ('{"schema": 7}', "schema")],
)
def test_what_is_no_result_is_refused_with_its_name(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=f"x.json is no result.*{said}"):
        read_result(path)


def test_a_result_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", summary([]))
    path.write_text(path.read_text().replace("llmgate.bench/1", "llmgate.bench/9"))
    with pytest.raises(BenchError, match="measure again"):
        read_result(path)


def test_a_missing_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        read_result(tmp_path / "none.json")


def test_a_comparison_is_ratios_and_what_differs() -> None:
    a = summary([record(0, 0.0, 1.0, 2.0, ended=2.0)], parameters={"rate": 2.0, "url": "http://a", "prompt_seed": 1})
    b = summary([record(0, 0.0, 2.0, 3.0, ended=4.0)], parameters={"rate": 3.0, "url": "http://b", "prompt_seed": 2})
    figures: Mapping[str, Any] = as_data(a, b)["figures"]
    assert figures["ttft mean"] == {"unit": "s", "a": 1.0, "b": 2.0, "ratio": 2.0}
    assert figures["requests"]["ratio"] == 0.5
    assert figures["failed"]["ratio"] is None
    assert differences(a, b)[0] == "rate differs: 2.0 and 3.0"
    assert not any("url" in note or "seed" in note for note in differences(a, b))


def test_a_comparison_with_a_result_that_lacks_figures_shows_what_there_is() -> None:
    a = summary([record(0, 0.0, 1.0, ended=2.0)], Slo(ttft=1.0))
    b = summary([record(0, 0.0, ended=2.0, streamed=False)])
    figures = as_data(a, b)["figures"]
    assert (figures["ttft p50"]["b"], figures["ttft p50"]["ratio"]) == (None, None)
    assert (figures["goodput"]["a"], figures["goodput"]["b"]) == (1.0, None)


def test_a_run_of_a_second_has_a_curve_over_time_too() -> None:
    result = summary([record(n, n / 10, n / 10 + 0.05, ended=n / 10 + 0.05) for n in range(14)])
    assert result.interval_s == 0.1
    assert [interval.requests for interval in result.timeline] == [1] * 14
