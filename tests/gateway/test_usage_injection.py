"""Streams are asked for their usage where the client did not ask, and the client does not see it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.testing.fake_upstream import CLOSE, LAST_CHUNK, STREAM_HEAD, ReceivedRequest, Script, answer, chunk
from tests.support.fake_engine import DONE, JSON, FakeEngine, sse, stream
from tests.support.serving import CHAT, STREAMED, Served, serving

TEXT = b'data: {"choices":[{"delta":{"content":"h\xc3\xa9 \\"prompt_tokens\\""}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":70,"completion_tokens":9}}\n\n'
WHOLE = TEXT + TEXT + USAGE + DONE
ASKING = {"stream_options": {"include_usage": True}}


def asks(body: bytes) -> Any:
    return json.loads(body).get("stream_options")


async def tokens(served: Served, kind: str) -> float:
    return await served.metric(f'llmgate_tokens_total{{model="m",endpoint="a",kind="{kind}"}}')


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", f"{CHAT}?via=asgi"])
async def test_a_stream_is_asked_for_its_usage_and_the_client_gets_what_it_would_have_got(path: str) -> None:
    async with FakeEngine(stream(WHOLE)) as engine, serving(engine) as served:
        answered = await served.client.post(path, json=STREAMED)
        assert answered.content == TEXT + TEXT + DONE
        assert (await tokens(served, "prompt"), await tokens(served, "completion")) == (70, 9)
        assert served.gateway.scheduler.knowledge("m").prompt.samples == 1
    assert asks(engine.asked[0].body) == {"include_usage": True}
    assert json.loads(engine.asked[0].body) == STREAMED | ASKING


async def test_wherever_the_engines_chunks_are_cut() -> None:
    cuts = iter(range(1, len(WHOLE)))

    async def cut(request: ReceivedRequest) -> None:
        at = next(cuts)
        await request.send(STREAM_HEAD, chunk(WHOLE[:at]))
        await request.send(chunk(WHOLE[at:]), LAST_CHUNK)

    async with FakeEngine(cut) as engine, serving(engine) as served:
        for _ in range(1, len(WHOLE)):
            assert (await served.chat(STREAMED)).content == TEXT + TEXT + DONE


async def test_a_client_that_asks_gets_the_engines_bytes_and_its_own_request_is_sent() -> None:
    body = json.dumps(STREAMED | ASKING).encode()
    async with FakeEngine(stream(WHOLE)) as engine, serving(engine) as served:
        assert (await served.chat(body)).content == WHOLE
    assert engine.asked[0].body == body


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": None, "x": 1}, {"include_usage": True, "x": 1}),
        ({"continuous_usage_stats": True, "x": [1]}, {"x": [1], "include_usage": True}),
    ],
)
async def test_options_of_the_clients_own_are_kept(options: Any, sent: Any) -> None:
    async with FakeEngine(stream(WHOLE)) as engine, serving(engine) as served:
        assert (await served.chat(STREAMED | {"stream_options": options})).content == TEXT + TEXT + DONE
    assert json.loads(engine.asked[0].body) == STREAMED | {"stream_options": sent}


@pytest.mark.parametrize("options", [7, "yes", [], True])
async def test_options_that_are_none_are_left_for_the_engine_to_refuse(options: Any) -> None:
    body = json.dumps(STREAMED | {"stream_options": options}).encode()
    async with FakeEngine([answer(b"{}", 400, [JSON])]) as engine, serving(engine) as served:
        assert (await served.chat(body)).status_code == 400
    assert engine.asked[0].body == body


@pytest.mark.parametrize(
    ("engine", "inject", "injected"),
    [
        ("vllm", "auto", True),
        ("sglang", "auto", True),
        ("tgi", "auto", True),
        ("trtllm", "auto", True),
        ("llamacpp", "auto", False),
        ("openai", "auto", False),
        ("openai", "always", True),
        ("vllm", "never", False),
    ],
)
async def test_who_is_asked_depends_on_the_make_and_the_configuration(engine: str, inject: str, injected: bool) -> None:
    events = sse({"choices": [{"delta": {"content": "x"}}]}, {"choices": [{"delta": {}}]})
    async with (
        FakeEngine(stream(*events)) as fake,
        serving({"url": fake.url, "engine": engine}, usage={"inject": inject}) as served,
    ):
        assert (await served.chat(STREAMED)).content == b"".join(events)
        assert await tokens(served, "completion") == 2  # none told: counted
        assert served.gateway.scheduler.knowledge("m").prompt.samples == 0
    assert (asks(fake.asked[0].body) is not None) is injected


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/generate_stream", "/v1/audio/speech"])
async def test_kinds_that_know_no_such_option_are_left_alone(path: str) -> None:
    body = json.dumps(STREAMED).encode()
    async with FakeEngine(stream(WHOLE)) as engine, serving(engine) as served:
        assert (await served.client.post(path, content=body)).content == WHOLE
    assert engine.asked[0].body == body


async def test_requests_that_are_not_streamed_are_left_alone() -> None:
    async with FakeEngine([answer(b'{"choices":[]}', headers=[JSON])]) as engine, serving(engine) as served:
        body = json.dumps(STREAMED | {"stream": False}).encode()
        await served.chat(body)
    assert engine.asked[0].body == body


async def test_a_stream_that_ends_without_an_empty_line_loses_nothing() -> None:
    cut_short = TEXT + b"data: [DONE]\n"
    scripts: list[Script] = [
        stream(cut_short),
        [STREAM_HEAD.replace(b"transfer-encoding: chunked\r\n", b""), cut_short, CLOSE],
    ]
    for script in scripts:
        async with FakeEngine(script) as engine, serving(engine) as served:
            assert (await served.chat(STREAMED)).content == cut_short


async def test_a_stream_that_is_whole_with_its_first_bytes_is_edited_too() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(WHOLE)
    async with FakeEngine([head + WHOLE]) as engine, serving(engine) as served:
        assert (await served.chat(STREAMED)).content == TEXT + TEXT + DONE


async def test_an_error_instead_of_a_stream_passes_as_it_is() -> None:
    error = b'{"error": {"message": "no"}}\n'
    async with FakeEngine([answer(error, 422, [JSON])]) as engine, serving(engine) as served:
        answered = await served.chat(STREAMED)
    assert (answered.status_code, answered.content) == (422, error)
