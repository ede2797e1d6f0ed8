"""Whole measurements of a scripted engine and of a real one."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmgate.bench.errors import BenchError
from llmgate.bench.measure import Options, measure
from llmgate.bench.record import ABORTED, Record
from llmgate.bench.result import Result
from llmgate.bench.run import Progress, RunClock, Warmup
from llmgate.bench.workload import plain
from llmgate.demo.engines import Engine
from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    Handler,
    ReceivedRequest,
    Script,
    answer,
    chunk,
)
from llmgate.workloads import TraceRequest, Workload
from tests.support.fake_engine import FakeEngine, completion, gone, sse, stream, until

PRELUDE = 4  # small requests that find out how the server counts


@asynccontextmanager
async def silent(progress: Progress, clock: RunClock) -> AsyncIterator[None]:
    yield


def asked(request: ReceivedRequest) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body)
    return body


def prompt_of(request: ReceivedRequest) -> str:
    body = asked(request)
    text: str = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    return text


def counting(tokens: int = 3) -> Handler:
    """An engine to which each word is a token, and the template eleven more."""

    async def handle(request: ReceivedRequest) -> None:
        usage = {"prompt_tokens": len(prompt_of(request).split()) + 11, "completion_tokens": tokens}
        events = [{"choices": [{"delta": {"content": "a"}}]}] * tokens
        await request.send(*stream(*sse(*events, {"choices": [], "usage": usage})))

    return handle


def after_prelude(then: Handler | Script) -> Handler:
    well, seen = counting(), 0

    async def handle(request: ReceivedRequest) -> None:
        nonlocal seen
        seen += 1
        if seen <= PRELUDE:
            await well(request)
        elif callable(then):
            await then(request)
        else:
            await request.run(then)

    return handle


def options(url: str, **changes: Any) -> Options:
    given = {"workload": plain(6, 50, 3), "concurrency": 2, "prompt_seed": 1, **changes}
    return Options(url, **given)


async def run(url: str, **changes: Any) -> tuple[Result, list[Record]]:
    return await measure(options(url, **changes), silent)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_a_url_may_have_the_path_or_not(suffix: str) -> None:
    async with FakeEngine(counting()) as engine:
        result, _ = await run(engine.url + suffix)
    assert {request.path for request in engine.asked} == {b"/v1/chat/completions"}
    assert (result.succeeded, result.failed, result.model) == (6, 0, "m")


async def test_prompts_come_out_as_long_as_asked_for_by_the_engines_own_count() -> None:
    async with FakeEngine(counting()) as engine:
        result, records = await run(engine.url)
    assert {record.prompt_tokens for record in records} == {50}
    assert result.tokens.prompt_ratio == 1
    assert result.tokens.counted_by == {"usage": 6}


async def test_a_request_asks_for_as_much_as_the_workload_says() -> None:
    requests = [TraceRequest(0.0, 40, 9, session="s 1\n", priority=2), TraceRequest(0.0, 40, 5, model="n")]
    async with FakeEngine(counting(), models=["m", "n"]) as engine:
        await run(engine.url, workload=Workload("two", requests), model="m", concurrency=1)
    first, second = engine.asked[PRELUDE:]
    assert (asked(first)["max_tokens"], asked(first)["priority"], asked(first)["model"]) == (9, 2, "m")
    assert first.header("x-session-id") == b"s%201%0A"
    assert asked(second)["model"] == "n"
    assert second.header("x-session-id") is None


async def test_completions_are_asked_for_on_their_path_and_whole_answers_have_an_end_only() -> None:
    async with FakeEngine([completion(prompt_tokens=7, completion_tokens=3)]) as engine:
        result, _ = await run(engine.url, endpoint="completions", stream=False)
    assert {request.path for request in engine.asked} == {b"/v1/completions"}
    assert result.ttft is None
    assert result.e2e is not None
    assert result.tokens.output == 18
    assert any("how it counts words" in warning for warning in result.warnings)


async def test_a_server_that_tells_no_usage_has_its_events_counted() -> None:
    async with FakeEngine(stream(*sse(*[{"choices": [{"delta": {"content": "a"}}]}] * 4))) as engine:
        result, records = await run(engine.url)
    assert {(record.output_tokens, record.counted) for record in records} == {(4, True)}
    assert result.tokens.counted_by == {"events": 6}


async def test_what_a_server_refuses_is_left_out() -> None:
    well = counting()

    async def strict(request: ReceivedRequest) -> None:
        if {"ignore_eos", "stream_options"} & asked(request).keys():
            await request.send(answer(b'{"error": {"message": "unknown field"}}', 400))
        else:
            await well(request)

    async with FakeEngine(strict) as engine:
        result, _ = await run(engine.url)
    assert result.succeeded == 6
    assert [warning.split(" (")[0] for warning in result.warnings[:2]] == [
        "the server refuses ignore_eos",
        "the server refuses stream_options: it was left out",
    ]


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ([answer(b'{"error": {"message": "full"}}', 503)], "http_503", "full"),
        ([answer(b"", 500)], "http_500", ""),
        ([STREAM_HEAD, chunk(b'data: {"choices": [{"text": "a"}]}\n\n'), RESET], "broken", "in the middle"),
        ([STREAM_HEAD, chunk(b'data: {"choices": [{"text": "a"}]}\n\n'), LAST_CHUNK], "broken", "neither"),
        ([CLOSE], "broken", "before the first byte"),
        ([b"SMTP ready\r\n", CLOSE], "malformed", "not a valid HTTP answer"),
        (stream(b"data: {oops\n\n"), "malformed", "not the JSON"),
        (stream(b'data: {"error": {"message": "no blocks"}}\n\n'), "stream_error", "no blocks"),
        ([answer(b"<html>")], "malformed", "no stream"),
    ],
)
async def test_errors_are_counted_by_kind(script: Script, kind: str, message: str) -> None:
    async with FakeEngine(after_prelude(script)) as engine:
        result, records = await run(engine.url, concurrency=1)
    assert result.errors == {kind: 6}
    assert result.succeeded == 0
    assert message in result.error_examples[kind]
    assert all(record.error == kind for record in records)


async def test_an_answer_that_does_not_come_in_time_is_a_timeout() -> None:
    async with FakeEngine(after_prelude([asyncio.Event()])) as engine:
        result, _ = await run(engine.url, workload=plain(2, 50, 3), timeout=0.5)
    assert result.errors == {"timeout": 2}


async def test_a_server_that_dies_cannot_be_connected_to() -> None:
    async with FakeEngine() as engine:
        engine._inference = after_prelude(lambda request: _die(engine))
        result, _ = await run(engine.url, concurrency=1)
    assert result.errors == {"connect": 6}


async def _die(engine: FakeEngine) -> None:
    assert engine._server is not None
    engine._server.close()
    for connection in engine.connections:
        connection.reset()


async def test_the_warm_up_is_sent_but_not_measured() -> None:
    async with FakeEngine(counting()) as engine:
        result, records = await run(engine.url, warmup=Warmup(requests=2))
    assert len(engine.asked) == PRELUDE + 6
    assert (result.requests, result.warmup, len(records)) == (4, 2, 6)


async def test_ctrl_c_closes_what_is_in_flight_and_keeps_what_was_measured() -> None:
    well = counting()
    answered = 0

    async def third_hangs(request: ReceivedRequest) -> None:
        nonlocal answered
        answered += 1
        if answered < 3:
            await well(request)

    @asynccontextmanager
    async def impatient(progress: Progress, clock: RunClock) -> AsyncIterator[None]:
        async def press() -> None:
            await until(lambda: answered == 3)
            signal.raise_signal(signal.SIGINT)

        pressing = asyncio.create_task(press())
        yield
        await pressing

    async with FakeEngine(after_prelude(third_hangs)) as engine:
        result, records = await measure(options(engine.url, concurrency=1), impatient)
        await gone(engine.asked[-1])
    assert result.ended_early
    assert (result.succeeded, result.failed, result.aborted) == (2, 0, 1)
    assert [record.error for record in records] == [None, None, ABORTED]


async def test_a_run_ends_after_its_duration() -> None:
    async with FakeEngine(after_prelude([asyncio.Event()])) as engine:
        result, _ = await run(engine.url, duration=0.1)
    assert result.ended_early
    assert (result.requests, result.aborted) == (0, 2)


async def test_an_open_loop_sends_though_nothing_is_answered() -> None:
    go = asyncio.Event()
    seen = 0

    async def all_at_the_end(request: ReceivedRequest) -> None:
        nonlocal seen
        seen += 1
        if seen == 6:
            go.set()
        await go.wait()
        await counting()(request)

    async with FakeEngine(after_prelude(all_at_the_end)) as engine:
        result, _ = await run(engine.url, concurrency=None, rate=500.0)
    assert result.succeeded == 6
    assert result.generator.lag is not None


async def test_a_turn_waits_for_the_one_before_it() -> None:
    requests = [TraceRequest(0.0, 40, 3), TraceRequest(0.1, 80, 3, after=0), TraceRequest(0.2, 120, 3, after=1)]
    async with FakeEngine(counting()) as engine:
        _, records = await run(engine.url, workload=Workload("turns", requests), concurrency=None)
    assert [record.index for record in records] == [0, 1, 2]
    assert all(later.intended >= earlier.ended for earlier, later in itertools.pairwise(records))


async def test_the_key_is_sent_and_is_in_no_result() -> None:
    async with FakeEngine(counting()) as engine:
        result, _ = await run(engine.url, api_key="canary")
        given = options(engine.url, api_key="canary")
    assert all(request.header("authorization") == b"Bearer canary" for request in engine.requests)
    assert "canary" not in repr(result) + repr(given)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_told_by_where_to_give_one(status: int) -> None:
    async with FakeEngine([answer(b'{"error": "no"}', status)]) as engine:
        with pytest.raises(BenchError, match="OPENAI_API_KEY"):
            await run(engine.url)


async def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    async with FakeEngine(models=["llama-70b", "qwen"]) as engine:
        with pytest.raises(BenchError, match=r"does not serve 'llama-7b'; there are: llama-70b$"):
            await run(engine.url, model="llama-7b")
        with pytest.raises(BenchError, match=r"several models \(llama-70b, qwen\): choose one with --model"):
            await run(engine.url)


async def test_a_server_without_models_is_told_of() -> None:
    async with FakeEngine(models=[]) as engine:
        with pytest.raises(BenchError, match="serves no model"):
            await run(engine.url)


async def test_a_server_without_a_list_of_models_needs_a_name() -> None:
    async with FakeEngine(counting()) as engine:
        engine.healthy = False
        with pytest.raises(BenchError, match=r"no list of models .* \(status 503\): name one with --model"):
            await run(engine.url)
        result, _ = await run(engine.url, model="any")
    assert result.model == "any"


async def test_a_server_that_cannot_serve_at_all_is_not_put_under_load() -> None:
    async with FakeEngine([answer(b'{"error": {"message": "loading"}}', 503)]) as engine:
        with pytest.raises(BenchError, match=r"failed \(http_503: loading\): nothing was measured"):
            await run(engine.url)
    assert len(engine.asked) == 1


async def test_a_path_that_is_not_served_is_told_with_the_other_one() -> None:
    async with FakeEngine([answer(b"", 404)]) as engine:
        with pytest.raises(BenchError, match="try --endpoint completions"):
            await run(engine.url)


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "", "http://user:pw@x"])
async def test_a_url_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(BenchError, match=r"give something like http://127\.0\.0\.1:8080"):
        await run(url)


async def test_nobody_listening_is_told_of() -> None:
    with pytest.raises(BenchError, match="does not answer: cannot connect"):
        await run("http://127.0.0.1:1")


async def test_without_the_library_the_extra_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name.startswith("hdrh"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BenchError, match=r"llmgate-lb\[sim\]"):
        await run("http://127.0.0.1:1")


async def test_a_real_engine_is_measured_with_prompts_of_about_the_right_length(tiny_engines: Sequence[Engine]) -> None:
    result, records = await run(tiny_engines[0].url, workload=plain(6, 200, 8))
    assert (result.succeeded, result.failed) == (6, 0)
    assert {record.output_tokens for record in records} == {8}
    assert result.tokens.prompt_ratio == pytest.approx(1, abs=0.1)
    assert result.ttft is not None
    assert result.e2e is not None
    assert result.ttft.mean < result.e2e.mean
