"""The official clients and engines that are scripted to do what a tiny model will not: call tools, break, refuse."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from llmgate.testing.fake_upstream import CLOSE, STREAM_HEAD, Script, answer, chunk
from tests.integration.test_clients import anthropic_of, openai_of, says
from tests.support.fake_engine import JSON, FakeEngine, sse, stream
from tests.support.serving import serving

TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def call(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": first.pop("name")} if first else {})}
    return piece({"tool_calls": [{"index": index, "function": function, **first}]})


CALLS = [
    piece({"role": "assistant", "content": None}),
    call(0, "", id="c1", type="function", name="look"),
    call(0, '{"city":'),
    call(0, ' "Paris"}'),
    call(1, '{"city": "Rome"}', id="c2", type="function", name="look"),
    piece({}, "tool_calls"),
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": {
        "prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}},
]  # fmt: skip


@pytest.mark.parametrize("make", ["vllm", "llamacpp"])
async def test_streamed_tool_calls_arrive_as_the_engine_sent_them(make: str) -> None:
    *calls, _ = CALLS
    said = CALLS if make == "vllm" else calls  # llama.cpp is not asked for usage, so it sends no chunk of it
    async with (
        FakeEngine(stream(*sse(*said))) as engine,
        serving({"url": engine.url, "engine": make}) as served,
        openai_of(served) as client,
    ):
        arguments = {0: "", 1: ""}
        chunks = await client.chat.completions.create(model="m", messages=says("?"), tools=TOOLS, stream=True)
        async for each in chunks:
            for made in each.choices[0].delta.tool_calls or ():
                arguments[made.index] += (made.function and made.function.arguments) or ""
        assert [json.loads(text)["city"] for text in arguments.values()] == ["Paris", "Rome"]


async def test_tool_calls_are_put_together_for_a_client_that_does_not_stream() -> None:
    async with (
        FakeEngine(stream(*sse(*CALLS))) as engine,
        serving({"url": engine.url, "engine": "llamacpp"}) as served,
        openai_of(served) as client,
    ):
        whole = await client.chat.completions.create(model="m", messages=says("?"), tools=TOOLS)
        (choice,) = whole.choices
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert calls is not None
        assert [made.id for made in calls] == ["c1", "c2"]
        assert [json.loads(made.function.arguments)["city"] for made in calls if made.type == "function"] == [
            "Paris",
            "Rome",
        ]
        assert whole.usage is not None
        assert whole.usage.total_tokens == 29


BROKEN: Script = [STREAM_HEAD, chunk(b'event: message_start\ndata: {"type":"message_start","message":'
    b'{"id":"x","type":"message","role":"assistant","content":[],"model":"m","stop_reason":null,'
    b'"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":0}}}\n\n'), CLOSE]  # fmt: skip


async def test_a_message_that_breaks_is_the_anthropic_clients_own_error() -> None:
    async with FakeEngine(BROKEN) as engine, serving(engine) as served, anthropic_of(served) as client:
        events = await client.messages.create(model="m", max_tokens=5, messages=says("hi"), stream=True)
        assert (await anext(aiter(events))).type == "message_start"
        with pytest.raises(anthropic.APIStatusError) as raised:
            await anext(aiter(events))
        assert raised.value.body == {
            "type": "error",
            "error": {"type": "api_error", "message": "the connection ended in the middle of the answer"},
        }


async def test_a_response_and_a_chat_that_break_are_the_openai_clients_own_errors() -> None:
    created = b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'
    async with (
        FakeEngine([STREAM_HEAD, chunk(created), CLOSE]) as engine,
        serving(engine) as served,
        openai_of(served) as client,
    ):
        response = await client.responses.create(model="m", input="hi", stream=True)
        chat = await client.chat.completions.create(model="m", messages=says("hi"), stream=True)
        assert (await anext(aiter(response))).type == "response.created"
        await anext(aiter(chat))
        for events in (response, chat):
            with pytest.raises(openai.APIError, match="connection ended"):
                await anext(aiter(events))


async def test_an_engine_that_refuses_is_the_clients_own_error() -> None:
    limited = json.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}).encode()
    async with FakeEngine([answer(limited, 429, [JSON])]) as engine, serving(engine) as served:
        async with anthropic_of(served) as client:
            with pytest.raises(anthropic.RateLimitError, match="slow down"):
                await client.messages.create(model="m", max_tokens=5, messages=says("hi"))
        async with openai_of(served) as other:
            with pytest.raises(openai.RateLimitError):
                await other.chat.completions.create(model="m", messages=says("hi"))


async def test_transcriptions_of_the_openai_client() -> None:
    async with (
        FakeEngine(
            [answer(b'{"text": "hello", "usage": {"type": "duration", "seconds": 1}}', headers=[JSON])]
        ) as engine,
        serving(engine) as served,
        openai_of(served) as client,
    ):
        heard = await client.audio.transcriptions.create(model="m", file=("a.wav", b"RIFF" * 1000), language="en")
        assert heard.text == "hello"
    (request,) = engine.asked
    assert b"RIFF" * 1000 in request.body


async def test_embeddings_of_the_openai_client() -> None:
    found = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
    body = json.dumps(found | {"usage": {"prompt_tokens": 2, "total_tokens": 2}}).encode()
    async with FakeEngine([answer(body, headers=[JSON])]) as engine, serving(engine) as served:
        async with openai_of(served) as client:
            made = await client.embeddings.create(model="m", input="hi", encoding_format="float")
        assert made.data[0].embedding == [0.5]
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="prompt"}') == 2
