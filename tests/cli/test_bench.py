"""`llmgate bench` as a user types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmgate.cli.main import main
from llmgate.demo.engines import Engine
from llmgate.testing.fake_upstream import ReceivedRequest, answer
from tests.support.fake_engine import FakeEngine, completion

QUICK = ("--no-stream", "--requests", "4")


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], env=environment)


async def run_on(engine: FakeEngine, *arguments: str | Path, **environment: str) -> Result:
    return await asyncio.to_thread(run, engine.url, *QUICK, *arguments, **environment)


async def test_the_result_is_a_table_and_a_file(tmp_path: Path) -> None:
    async with FakeEngine([completion()]) as engine:
        result = await run_on(
            engine, "--json", tmp_path / "a.json", "--records", tmp_path / "r.jsonl", "--slo", "e2e=9"
        )
    assert result.exit_code == 0, result.output
    assert "E2E" in result.stdout
    assert "goodput: 100.0%" in result.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["schema"], written["succeeded"], written["model"]) == ("llmgate.bench/1", 4, "m")
    assert written["parameters"]["concurrency"] == 1
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]


async def test_json_on_standard_output_is_alone_there() -> None:
    async with FakeEngine([completion()]) as engine:
        result = await run_on(engine, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["succeeded"] == 4


async def test_a_file_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    async with FakeEngine([completion()]) as engine:
        result = await run_on(engine, "--json", tmp_path / "none" / "a.json")
    assert result.exit_code == 1
    assert "4 of 4 succeeded" in result.stdout
    assert result.stderr.endswith("a.json cannot be written: No such file or directory\n")


async def test_the_key_of_the_environment_is_sent_and_never_shown(tmp_path: Path) -> None:
    async with FakeEngine([completion()]) as engine:
        result = await run_on(engine, "--json", tmp_path / "a.json", OPENAI_API_KEY="canary\n")
    assert engine.asked[-1].header("authorization") == b"Bearer canary"
    assert "canary" not in result.output + (tmp_path / "a.json").read_text()


async def test_a_trace_is_replayed_with_shorter_answers(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    line = '{{"timestamp": {}, "input_length": 600, "output_length": 50, "hash_ids": [{}, 9]}}\n'
    trace.write_text("".join(line.format(at, n) for n, at in enumerate((0, 0, 0, 1, 1))) + "oops\n")
    async with FakeEngine([completion()]) as engine:
        bad = await run_on(engine, "--trace", trace)
        good = await run_on(engine, "--trace", trace, "--skip-bad", "--max-tokens", "7")
    assert (bad.exit_code, bad.stderr.count("\n")) == (1, 1)
    assert f"{trace}:6" in bad.stderr
    assert good.exit_code == 0, good.output
    assert "1 left out" in good.stderr
    asked = [json.loads(request.body) for request in engine.asked[-4:]]
    assert [body["max_tokens"] for body in asked] == [7] * 4


async def test_a_synthetic_workload_is_as_long_as_it_is_told_to_be() -> None:
    async with FakeEngine([completion()]) as engine:
        result = await run_on(engine, "--workload", "uniform:rate=1000,prompt_max=99", "--json", "-")
    written = json.loads(result.stdout)
    assert written["requests"] == 4
    assert written["parameters"]["workload"] == "uniform:rate=1000,prompt_max=99"


async def test_nothing_but_failures_is_a_failure_with_the_reason() -> None:
    seen = 0

    async def full(request: ReceivedRequest) -> None:
        nonlocal seen
        seen += 1
        await request.send(completion() if seen <= 4 else answer(b'{"error": {"message": "full"}}', 503))

    async with FakeEngine(full) as engine:
        result = await run_on(engine)
    assert result.exit_code == 1
    assert result.stderr == "llmgate: every request failed (4 × http_503): full\n"


async def test_two_results_are_compared_and_drawn(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    async with FakeEngine([completion()]) as engine:
        await run_on(engine, "--json", a)
        await run_on(engine, "--json", b, "--rate", "1000")
    shown = run("--compare", a, b, "--report", tmp_path / "page")
    assert shown.exit_code == 0, shown.output
    assert "e2e mean" in shown.stdout
    assert "note: concurrency differs: 1 and none" in shown.stdout
    assert (tmp_path / "page" / "e2e.png").exists()
    data = json.loads(run("--compare", a, b, "--json", "-").stdout)
    assert data["figures"]["e2e mean"]["ratio"] > 0


def test_a_real_engine_is_measured_and_reported(tiny_engines: Sequence[Engine], tmp_path: Path) -> None:
    result = run(
        tiny_engines[0].url,
        *("--concurrency", "2", "--requests", "6", "--max-tokens", "8", "--warmup", "2", "--report", tmp_path),
    )
    assert result.exit_code == 0, result.output
    assert "4 of 4 succeeded" in result.stdout
    page = (tmp_path / "index.html").read_text()
    assert all(f"{name}.png" in page for name in ("ttft", "itl", "tpot", "e2e"))


URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the URL of an endpoint"),
        ([URL, "--rate", "2", "--concurrency", "2"], "give one of them"),
        ([URL, "--rate", "often"], "'often' is not a valid float"),
        ([URL, "--rate", "0"], "must be a number above zero"),
        ([URL, "--rate", "inf"], "must be a number above zero"),
        ([URL, "--requests", "0"], "0 is not in the range"),
        ([URL, "--concurrency", "0"], "0 is not in the range"),
        ([URL, "--burstiness", "2"], "give both"),
        ([URL, "--rate-scale", "2", "--rate", "1"], "leave out --rate"),
        ([URL, "--slo", "speed=2"], "'speed' is not a bound"),
        ([URL, "--warmup", "soon"], "not 'soon'"),
        ([URL, "--warmup", "-3"], "not '-3'"),
        ([URL, "--extra-body", "[]"], "must be a JSON object"),
        ([URL, "--trace", "x", "--workload", "y"], "give one of them"),
        ([URL, "--workload", "uniform", "--prompt-tokens", "5"], "has its own"),
        ([URL, "--api-key", "canary\ncanary"], "must not contain control characters"),
        (["--compare", "a", "b", URL], "no URL"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert "canary" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([URL], "does not answer"),
        (["ftp://x"], "must start with http://"),
        ([URL, "--workload", "unifrom"], "did you mean uniform?"),
        ([URL, "--workload", "uniform:rat=2"], "rate"),
        ([URL, "--trace", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--compare", "/nowhere.json", "/b.json"], "/nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_1(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("llmgate: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
