"""Requests for an engine that works on for clients that have left: they are carried as a stream and put together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmgate.core.health import State
from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import CLOSE, LAST_CHUNK, RESET, STREAM_HEAD, answer, chunk
from tests.support.fake_engine import DONE, JSON, FakeEngine, completion, gone, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


def piece(content: str | None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


EVENTS = sse(piece("hel"), piece("lo"), piece(None, "stop"), {"choices": [], "usage": USAGE})
WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "usage": USAGE,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
}


@asynccontextmanager
async def in_front_of(*engines: FakeEngine, make: str = "llamacpp", **sections: Any) -> AsyncIterator[Served]:
    async with serving(*({"url": engine.url, "engine": make} for engine in engines), **sections) as served:
        yield served


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}?via=asgi"])
@pytest.mark.parametrize("body", [HELLO, HELLO | {"stream": False}, HELLO | {"stream": None}])
async def test_the_client_gets_whole_what_came_as_a_stream(path: str, body: dict[str, Any]) -> None:
    async with FakeEngine(stream(*EVENTS)) as engine, in_front_of(engine) as served:
        answered = await served.client.post(path, json=body)
        assert (answered.status_code, answered.json()) == (200, WHOLE)
        assert answered.headers["content-type"] == "application/json"
        assert int(answered.headers["content-length"]) == len(answered.content)
        assert answered.headers["x-llmgate-endpoint"] == "a"
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="prompt"}') == 7
        # it was no stream to the client
        assert await served.metric('llmgate_time_to_first_token_seconds_count{model="m",endpoint="a"}') == 0
    sent = json.loads(engine.asked[0].body)
    assert sent == body | {"stream": True, "stream_options": {"include_usage": True}}


async def test_only_engines_that_need_it_are_asked_so() -> None:
    body = json.dumps(HELLO).encode()
    async with FakeEngine([completion()]) as engine, in_front_of(engine, make="vllm") as served:
        await served.chat(body)
    assert engine.asked[0].body == body


async def test_an_empty_body_becomes_a_request_for_a_stream() -> None:
    async with FakeEngine(stream(*EVENTS)) as engine, in_front_of(engine) as served:
        for body in (b"{}", b" { \n} "):
            assert (await served.chat(body)).json() == WHOLE
    for request in engine.asked:
        assert json.loads(request.body) == {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("field", ['"yes"', "1", "[]", '"true"'])
async def test_a_stream_field_that_is_neither_yes_nor_no_is_left_for_the_engine(field: str) -> None:
    body = b'{"model": "m", "stream": %b}' % field.encode()
    async with FakeEngine([answer(b"{}", 400, [JSON])]) as engine, in_front_of(engine) as served:
        assert (await served.chat(body)).status_code == 400
    assert engine.asked[0].body == body


async def test_embeddings_are_not_carried() -> None:
    body = b'{"model": "m", "input": "x"}'
    async with FakeEngine([answer(b"{}", headers=[JSON])]) as engine, in_front_of(engine) as served:
        await served.client.post("/v1/embeddings", content=body)
    assert engine.asked[0].body == body


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_frees_the_engine_at_once(begun: bool) -> None:
    async with FakeEngine() as engine, in_front_of(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(HELLO))
            request = await engine.request()
            if begun:
                await request.send(STREAM_HEAD, chunk(EVENTS[0]))
            client.leave()
            await gone(request)
        await served.settled()
        assert served.state("a") is State.UP


async def test_load_shrinks_while_the_answer_is_put_together() -> None:
    async with FakeEngine() as engine, in_front_of(engine) as served:
        asked = asyncio.create_task(served.chat(HELLO | {"max_tokens": 100}))
        request = await engine.request()
        (endpoint,) = served.gateway.pool
        booked = endpoint.load.decode_tokens
        await request.send(STREAM_HEAD, chunk(EVENTS[0] * 10))
        async with asyncio.timeout(5):
            while endpoint.load.decode_tokens != booked - 10:
                await asyncio.sleep(0)
        assert endpoint.load.prefill_tokens == 0
        await request.send(*map(chunk, EVENTS), LAST_CHUNK)
        assert (await asked).json()["choices"][0]["message"]["content"] == "hel" * 10 + "hello"


@pytest.mark.parametrize(
    "script",
    [
        [RESET],
        [STREAM_HEAD, CLOSE],
        [answer(b"{}", 503)],
        [STREAM_HEAD, chunk(b": ping\n\n"), CLOSE],
        [STREAM_HEAD, chunk(b'data: {"error":{"message":"no","code":500}}\n\n'), LAST_CHUNK],
        [STREAM_HEAD, chunk(b"data: {nonsense\n\n" + DONE), LAST_CHUNK],
        [STREAM_HEAD, chunk(b"data: {nonsense"), b"no chunk"],
    ],
)
async def test_a_failure_before_anything_of_the_answer_came_is_tried_elsewhere(script: Any) -> None:
    async with FakeEngine(script) as a, FakeEngine(stream(*EVENTS)) as b, in_front_of(a, b) as served:
        for _ in range(3):
            assert (await served.chat()).json() == WHOLE
    assert a.asked


BROKEN: list[list[Any]] = [
    [STREAM_HEAD, chunk(EVENTS[0]), RESET],
    [STREAM_HEAD, chunk(EVENTS[0]), CLOSE],
    [STREAM_HEAD, chunk(EVENTS[0]), LAST_CHUNK],
    [STREAM_HEAD, chunk(EVENTS[0] + b'data: {"error":{"message":"secret","code":500}}\n\n'), LAST_CHUNK],
]


@pytest.mark.parametrize("script", BROKEN)
async def test_a_failure_half_way_is_tried_elsewhere_too_since_the_client_has_seen_nothing(script: Any) -> None:
    async with FakeEngine(script) as a, FakeEngine(stream(*EVENTS)) as b, in_front_of(a, b) as served:
        for _ in range(3):
            assert (await served.chat()).json() == WHOLE
    assert a.asked


@pytest.mark.parametrize("script", BROKEN)
async def test_a_failure_half_way_with_nobody_else_to_ask_is_a_502(script: Any) -> None:
    async with FakeEngine(script) as a, in_front_of(a) as served:
        answered = await served.chat(x_request_id="mine")
        assert answered.status_code == 502
        assert answered.json()["error"]["type"] == "upstream_error"
        assert answered.headers["x-request-id"] == "mine"
        assert "secret" not in answered.text
        assert len(a.asked) == 1
        assert dict(served.gateway.scheduler.ledger.causes) == {TerminationCause.UPSTREAM_ERROR: 1}


async def test_an_engine_that_falls_silent_half_way_is_a_504() -> None:
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENTS[0])]) as engine,
        in_front_of(engine, timeouts={"idle": 0.05}) as served,
    ):
        assert (await served.chat()).status_code == 504


async def test_an_error_is_the_engines_own_whether_it_comes_as_an_answer_or_in_the_stream() -> None:
    error = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    said = json.dumps(error).encode()
    for script in ([answer(said, 400, [JSON])], [STREAM_HEAD, chunk(b"data: %b\n\n" % said), LAST_CHUNK]):
        async with FakeEngine(script) as engine, in_front_of(engine) as served:
            answered = await served.chat()
            assert (answered.status_code, answered.json()) == (400, error)


async def test_an_engine_that_does_not_stream_after_all_is_believed() -> None:
    async with FakeEngine([completion("plain")]) as engine, in_front_of(engine) as served:
        assert (await served.chat()).json()["choices"][0]["message"]["content"] == "plain"


async def test_streams_of_clients_pass_as_ever() -> None:
    async with FakeEngine(stream(*EVENTS)) as engine, in_front_of(engine) as served:
        assert (await served.chat(STREAMED)).content == b"".join(EVENTS)
