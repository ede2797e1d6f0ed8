"""The official openai and anthropic clients through the gateway, with real llama.cpp engines behind it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmgate.demo.engines import Engine
from llmgate.demo.model import TINY
from tests.engines import tiny
from tests.support.serving import Served, serving

MODEL = TINY.alias
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "seed": 1}
TOOL_PARAMETERS = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
NEVER_ALIKE = {"id", "created", "created_at", "completed_at", "timings"}


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@asynccontextmanager
async def served_by(engines: Sequence[Engine], **sections: Any) -> AsyncIterator[Served]:
    async with serving(*(engine.url for engine in engines), **sections) as served:
        yield served


@asynccontextmanager
async def openai_of(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        yield client


@asynccontextmanager
async def anthropic_of(served: Served) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key="x", max_retries=0, timeout=60) as client:
        yield client


async def busy_slots(engine: Engine) -> int:
    async with httpx2.AsyncClient(verify=False) as client:
        slots = (await client.get(f"{engine.url}/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


def comparable(answer: Any) -> Any:
    """An answer without what differs each time that it is given."""
    if isinstance(answer, list):
        return [comparable(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    return {name: comparable(value) for name, value in answer.items() if name not in NEVER_ALIKE}


# Answers that are carried as a stream and put together ---------------------------------------------------------------

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": says("hi"), "max_tokens": 12}),
    ("/v1/chat/completions", {"messages": says("hi"), "max_tokens": 12, "stream": False, "n": 3}),
    ("/v1/chat/completions", {"messages": says("hi"), "max_tokens": 6, "logprobs": True, "top_logprobs": 3}),
    ("/v1/chat/completions", {"messages": says("hi"), "max_tokens": 8, "response_format": {"type": "json_object"}}),
    ("/v1/chat/completions", {"messages": says("hi"), "max_tokens": 60, "stop": ["were"]}),
    ("/v1/chat/completions", {"messages": says("é 🎉"), "max_tokens": 100}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 12}),
    ("/v1/completions", {"prompt": ["Once", "Twice"], "max_tokens": 6, "logprobs": 2}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 6, "n": 2, "stream_options": None}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 12}),
    ("/v1/messages", {"messages": says("hi"), "max_tokens": 12}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_an_answer_that_was_put_together_is_the_one_that_the_engine_gives(
    tiny_engines: Sequence[Engine], path: str, body: dict[str, Any]
) -> None:
    engine, *_ = tiny_engines
    async with served_by([engine]) as served, httpx2.AsyncClient(verify=False, timeout=60) as direct:
        await direct.post(f"{engine.url}{path}", json=GREEDY | body)  # so that the prompt is cached for both
        asked = await direct.post(f"{engine.url}{path}", json=GREEDY | body)
        through = await served.client.post(path, json=GREEDY | body)
    assert (through.status_code, asked.status_code) == (200, 200)
    assert comparable(through.json()) == comparable(asked.json())
    differing = asked.json().keys() ^ through.json().keys()
    assert differing <= {"completed_at"}  # which llama.cpp leaves out of the last event of a response


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": "no list"}),
        ("/v1/chat/completions", {"messages": says("hi"), "n": 99}),
        ("/v1/completions", {"prompt": "word " * 9000}),
        ("/v1/messages", {"messages": says("word " * 9000), "max_tokens": 1}),
    ],
)
async def test_an_error_is_the_one_that_the_engine_gives(
    tiny_engines: Sequence[Engine], path: str, body: dict[str, Any]
) -> None:
    engine, *_ = tiny_engines
    async with served_by([engine]) as served, httpx2.AsyncClient(verify=False, timeout=60) as direct:
        asked = await direct.post(f"{engine.url}{path}", json=GREEDY | body)
        through = await served.client.post(path, json=GREEDY | body)
    assert asked.status_code >= 400
    assert (through.status_code, through.json()) == (asked.status_code, asked.json())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_a_client_that_leaves_an_answer_that_is_not_streamed_frees_the_slot_at_once(
    start_engine: Callable[..., Engine], path: str
) -> None:
    engine = start_engine(tiny(ctx=16384, slots=2))
    body = GREEDY | {"messages": says("go"), "prompt": "go", "input": "go", "ignore_eos": True}
    limits = {"max_tokens": 8000, "max_output_tokens": 8000}
    async with served_by([engine]) as served:
        asked = asyncio.create_task(served.client.post(path, json=body | limits))
        while not await busy_slots(engine):
            await asyncio.sleep(0)
        asked.cancel()
        left = time.perf_counter()
        while await busy_slots(engine):
            assert time.perf_counter() - left < 1.0, "the engine still works for a client that has left"
        await served.settled()


# openai --------------------------------------------------------------------------------------------------------------


async def test_openai_chats(tiny_engines: Sequence[Engine]) -> None:
    async with served_by(tiny_engines) as served, openai_of(served) as client:
        ask = client.chat.completions.create
        whole = await ask(**GREEDY, messages=says("hi"), max_tokens=6, n=2, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in whole.choices] == [0, 1]
        assert whole.choices[0].finish_reason == "length"
        assert whole.choices[0].logprobs is not None
        assert len(whole.choices[0].logprobs.content or ()) == 6
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 6

        text, finish = "", None
        async for chunk in await ask(**GREEDY, messages=says("hi"), max_tokens=6, stream=True):
            (choice,) = chunk.choices  # the usage chunk that the gateway asked for is not there
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        assert (text, finish) == (whole.choices[0].message.content, "length")
        counted = [f'llmgate_tokens_total{{model="{MODEL}",endpoint="{name}",kind="prompt"}}' for name in "ab"]
        assert sum([await served.metric(line) for line in counted]) == 2 * whole.usage.prompt_tokens


async def test_openai_json_mode_is_kept_whole_and_streamed(tiny_engines: Sequence[Engine]) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL_PARAMETERS}}
    async with served_by(tiny_engines) as served, openai_of(served) as client:
        ask: Any = client.chat.completions.create
        whole = await ask(**GREEDY, messages=says("hi"), max_tokens=200, response_format=schema)
        assert isinstance(json.loads(whole.choices[0].message.content)["a"], bool)
        stream = await ask(**GREEDY, messages=says("hi"), max_tokens=200, response_format=schema, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content


async def test_openai_tools_reach_the_engine(tiny_engines: Sequence[Engine]) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": TOOL_PARAMETERS}}]
    async with served_by(tiny_engines) as served, openai_of(served) as client:
        answer = await client.chat.completions.create(**GREEDY, messages=says("hi"), max_tokens=5, tools=tools)
        assert answer.usage is not None  # the tiny model calls none; tests/integration/test_scripted_clients.py does
        wrong: Any = [{"type": "function"}]
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(**GREEDY, messages=says("hi"), max_tokens=5, tools=wrong)


async def test_openai_responses(tiny_engines: Sequence[Engine]) -> None:
    async with served_by(tiny_engines) as served, openai_of(served) as client:
        whole = await client.responses.create(model=MODEL, input="hi", max_output_tokens=6, temperature=0)
        assert whole.status == "completed"
        assert whole.usage is not None
        assert whole.usage.output_tokens == 6
        types, text = [], ""
        async for event in await client.responses.create(
            model=MODEL, input="hi", max_output_tokens=6, temperature=0, stream=True
        ):
            types.append(event.type)
            if event.type == "response.output_text.delta":
                text += event.delta
        assert (types[0], types[-1]) == ("response.created", "response.completed")
        assert text == whole.output_text
        counted = [f'llmgate_tokens_total{{model="{MODEL}",endpoint="{name}",kind="completion"}}' for name in "ab"]
        assert sum([await served.metric(line) for line in counted]) == 12
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="other", input="hi")


async def test_openai_models_are_listed_and_looked_up(tiny_engines: Sequence[Engine]) -> None:
    aliases = [{"name": MODEL, "aliases": ["gpt-4o"]}]
    async with served_by(tiny_engines, models=aliases) as served, openai_of(served) as client:
        assert [model.id async for model in client.models.list()] == [MODEL, "gpt-4o"]
        assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")


# anthropic -----------------------------------------------------------------------------------------------------------


async def test_anthropic_messages(tiny_engines: Sequence[Engine]) -> None:
    exactly = {"temperature": 0}  # which this client no longer knows
    async with served_by(tiny_engines) as served, anthropic_of(served) as client:
        whole = await client.messages.create(model=MODEL, max_tokens=6, messages=says("hi"), extra_body=exactly)
        assert whole.stop_reason == "max_tokens"
        assert whole.usage.output_tokens == 6
        (block,) = whole.content
        assert block.type == "text"
        async with client.messages.stream(model=MODEL, max_tokens=6, messages=says("hi"), extra_body=exactly) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            last = await stream.get_final_message()
        assert (text, last.usage.output_tokens) == (block.text, 6)
        counted = await client.messages.count_tokens(model=MODEL, messages=says("hi"))
        totals = {"prompt": 2 * counted.input_tokens, "completion": 12}
        for kind, tokens in totals.items():
            lines = [f'llmgate_tokens_total{{model="{MODEL}",endpoint="{name}",kind="{kind}"}}' for name in "ab"]
            assert sum([await served.metric(line) for line in lines]) == tokens


async def test_anthropic_errors_are_the_clients_own(tiny_engines: Sequence[Engine]) -> None:
    async with served_by(tiny_engines) as served, anthropic_of(served) as client:
        with pytest.raises(anthropic.NotFoundError, match="other"):
            await client.messages.create(model="other", max_tokens=6, messages=says("hi"))
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(model=MODEL, max_tokens=6, messages=says("word " * 9000))
        for name in "ab":
            await served.admin.post(f"/api/endpoints/{name}/drain")
        with pytest.raises(anthropic.APIStatusError) as full:
            await client.messages.create(model=MODEL, max_tokens=6, messages=says("hi"))
        assert full.value.status_code == 503


# What llama.cpp has of its own ---------------------------------------------------------------------------------------


async def test_tokens_and_back(tiny_engines: Sequence[Engine]) -> None:
    async with served_by(tiny_engines) as served:
        tokens = (await served.client.post("/tokenize", json={"content": "hello there"})).json()["tokens"]
        text = (await served.client.post("/detokenize", json={"tokens": tokens})).json()["content"]
        assert text == "hello there"
        lacking = await served.client.post("/v1/score", json={"model": MODEL, "text_1": "a", "text_2": "b"})
        assert lacking.status_code == 404
