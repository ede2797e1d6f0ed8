"""`llmgate simulate` as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmgate.cli.main import main

ENGINES = "2xh100:llama-3.1-8b"
WORKLOAD = "multi-turn:requests=40,rate=5"


def run(*arguments: str, engines: str = ENGINES) -> Result:
    return CliRunner().invoke(main, ["simulate", "--engines", engines, *arguments])


def figures(result: Result) -> dict[str, dict[str, float]]:
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, float]] = json.loads(result.stdout)["policies"]
    return found


def test_policies_are_shown_side_by_side() -> None:
    result = run("--workload", WORKLOAD, "--policy", "round-robin", "oracle", "--slo", "ttft=1s,tpot=50ms")
    assert result.exit_code == 0, result.output
    for word in ("TTFT", "TPOT", "E2E", "p95", "hits", "goodput", "round-robin", "oracle", "40 requests"):
        assert word in result.stdout


def test_json_on_standard_output_is_all_that_is_there() -> None:
    found = figures(run("--workload", WORKLOAD, "--policy", "round-robin", "--policy", "token-aware", "--json", "-"))
    assert list(found) == ["round-robin", "token-aware"]
    assert found["token-aware"]["requests"] == 40


def test_json_is_alone_on_a_pipe_whatever_the_locale() -> None:
    """In the C locale click's standard output is not sys.stdout."""
    arguments = ["--workload", "poisson:requests=5", "--engines", ENGINES, "--policy", "random", "--json", "-"]
    command = [sys.executable, "-m", "llmgate", "simulate", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["policies"]["random"]["requests"] == 5


def test_a_json_file_that_cannot_be_written_costs_no_table(tmp_path: Path) -> None:
    result = run("--workload", WORKLOAD, "--policy", "random", "--json", str(tmp_path / "none" / "a.json"))
    assert result.exit_code == 1
    assert "TTFT" in result.stdout
    assert result.stderr.endswith("a.json cannot be written: No such file or directory\n")


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        result = run("--workload", WORKLOAD, "--policy", "random", "--seeds", "2", "--json", str(file))
        assert result.exit_code == 0, result.output
    assert files[0].read_bytes() == files[1].read_bytes()


def test_all_stands_for_every_built_in_policy() -> None:
    found = figures(run("--workload", "poisson:requests=5", "--policy", "all", "--json", "-"))
    assert {"round-robin", "expected-latency", "oracle"} <= found.keys()


def test_traces_are_read_and_what_no_engine_can_hold_is_left_out(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {
            "timestamp": 3000 * n,
            "input_length": length,
            "output_length": 5,
            "hash_ids": list(range(1, 2 + (length - 1) // 512)),
        }
        for n, length in enumerate((500, 510, 900_000))
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("--trace", str(trace), "--policy", "random", "--json", "-")
    assert figures(result)["random"]["requests"] == 2
    assert list(json.loads(result.stdout)["dropped"].values()) == [1]


def test_incidents_need_no_quotes() -> None:
    arguments = ["--policy", "random", "--at", "1s", "slow", "h100-0", "x2", "--at", "2s kill h100-1", "--json", "-"]
    result = run("--workload", WORKLOAD, *arguments)
    assert json.loads(result.stdout)["incidents"] == ["1s slow h100-0 x2", "2s kill h100-1"]


def test_values_may_follow_an_equals_sign() -> None:
    arguments = ["--policy=random", "token-aware", "--policy=round-robin", "--at=1s kill h100-1", "--json=-"]
    result = run("--workload", WORKLOAD, *arguments)
    assert list(figures(result)) == ["random", "token-aware", "round-robin"]
    assert json.loads(result.stdout)["incidents"] == ["1s kill h100-1"]


def test_capacity_is_found_on_demand() -> None:
    arguments = ["--policy", "random", "--find-capacity", "--slo", "ttft=300ms"]
    result = run("--workload", "poisson:requests=60,rate=5", *arguments)
    assert result.exit_code == 0, result.output
    assert "up to × rate" in result.stdout
    found = figures(run("--workload", "poisson:requests=60,rate=5", *arguments, "--json", "-"))
    assert found["random"]["capacity"]["rate_scale"] > 0  # type: ignore[index]


@pytest.mark.parametrize(("slo", "shown"), [("ttft=1h", "≥ 64.00"), ("ttft=1ms", "< 0.016")])
def test_the_ends_of_the_search_for_a_capacity_are_marked_as_such(slo: str, shown: str) -> None:
    result = run("--workload", "poisson:requests=5", "--policy", "random", "--find-capacity", "--slo", slo)
    assert shown in result.stdout


def test_seeds_give_intervals_against_the_first_policy() -> None:
    arguments = ["--policy", "round-robin", "prefix-affinity", "--seeds", "3"]
    result = run("--workload", WORKLOAD, *arguments)
    assert "less round-robin" in result.stdout
    found = figures(run("--workload", WORKLOAD, *arguments, "--json", "-"))
    assert found["prefix-affinity"]["difference"].keys() >= {"ttft.mean", "goodput_ratio"}  # type: ignore[attr-defined]


def test_a_report_is_written_on_demand(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--policy", "round-robin", "oracle", "--report", str(tmp_path / "out")]
    result = run("--workload", WORKLOAD, *arguments)
    assert result.exit_code == 0, result.output
    assert "round-robin" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workload", "poisson", "--policy", "rond-robin"], "did you mean round-robin"),
        (["--workload", "poison", "--policy", "random"], "poisson"),
        (["--trace", "no-such-file", "--policy", "random"], "no-such-file"),
        (["--workload", "poisson", "--policy", "random", "--slo", "ttft"], "is no objective"),
        (["--workload", "poisson", "--policy", "random", "--at", "1s kill h100-7"], "there is no engine 'h100-7'"),
        (["--workload", "poisson", "--policy", "random", "--rate-scale", "0"], "--rate-scale must be"),
        (["--workload", "poisson", "--policy", "random", "--estimate-error", "9"], "must be between 0 and 2"),
        (["--workload", "poisson", "--policy", "random", "--scrape-period", "0"], "must be above 0"),
        (["--workload", "poisson", "--policy", "a.b:C"], "could not be imported"),
    ],
)
def test_mistakes_are_one_sentence_on_stderr(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.startswith("llmgate: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_an_unknown_gpu_has_its_nearest_named() -> None:
    result = run("--workload", "poisson", "--policy", "random", engines="2xh10:llama-3.1-8b")
    assert result.exit_code == 1
    assert "h100" in result.stderr


def test_a_malformed_line_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    good = json.dumps({"timestamp": 0, "input_length": 500, "output_length": 5, "hash_ids": [1]})
    trace.write_text(f"{good}\n{{broken\n{good}\n")
    refused = run("--trace", str(trace), "--policy", "random")
    assert refused.exit_code == 1
    assert f"{trace}:2: " in refused.stderr
    skipped = run("--trace", str(trace), "--policy", "random", "--skip-bad")
    assert skipped.exit_code == 0, skipped.output
    assert "left out of the workload: 1" in skipped.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--policy", "random"],
        ["--policy", "random", "--workload", "poisson", "--trace", "x"],
        ["--workload", "poisson"],
        ["--workload", "poisson", "--policy"],
        ["--workload", "poisson", "--policy", "random", "--seeds", "0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_has_examples() -> None:
    result = CliRunner().invoke(main, ["simulate", "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output


def test_engines_may_tell_what_they_cache() -> None:
    arguments = ("--workload", "multi-turn:requests=80,rate=40", "--policy", "expected-latency", "--json", "-")
    assert figures(run(*arguments, "--kv-events")) != figures(run(*arguments))
