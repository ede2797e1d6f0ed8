"""The official client, the gateway on its real port, and real llama.cpp engines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest

from llmgate.demo.engines import Engine
from llmgate.demo.model import TINY
from tests.engines import tiny
from tests.support.fake_engine import until
from tests.support.serving import Served, serving

logger = logging.getLogger(__name__)

MODEL = TINY.alias
Messages = list[Any]


def says(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def long(tokens: int) -> dict[str, Any]:
    """An answer of exactly so many tokens."""
    return {"max_tokens": tokens, "extra_body": {"ignore_eos": True}}


@asynccontextmanager
async def client_of(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        yield client


@asynccontextmanager
async def in_front_of(engines: Sequence[Engine], **sections: Any) -> AsyncIterator[tuple[Served, openai.AsyncOpenAI]]:
    async with serving(*(engine.url for engine in engines), **sections) as served, client_of(served) as client:
        yield served, client


async def busy_slots(engine: Engine) -> int:
    async with httpx2.AsyncClient(verify=False) as client:
        slots = (await client.get(f"{engine.url}/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


async def test_a_chat_is_answered_whole_with_usage(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (_, client):
        answer = await client.chat.completions.create(model=MODEL, messages=says("hi"), **long(5))
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        assert answer.choices[0].message.content


async def test_a_chat_is_streamed_with_usage_at_its_end(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (served, client):
        stream = await client.chat.completions.create(
            model=MODEL, messages=says("hi"), stream=True, stream_options={"include_usage": True}, **long(20)
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 20
        assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) >= 10
        endpoints = [f'{{model="{MODEL}",endpoint="{name}",kind="completion"}}' for name in "ab"]
        assert sum([await served.metric(f"llmgate_tokens_total{labels}") for labels in endpoints]) == 20


async def test_completions_models_and_a_text_prompt(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (_, client):
        assert [model.id async for model in client.models.list()] == [MODEL]
        answer = await client.completions.create(model=MODEL, prompt="Once upon", **long(4))
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4


def test_the_synchronous_client_works_as_well(tiny_engines: Sequence[Engine]) -> None:
    async def ask(served: Served) -> None:
        def work() -> None:
            with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
                whole = client.chat.completions.create(model=MODEL, messages=says("hi"), **long(3))
                assert whole.usage is not None
                assert whole.usage.completion_tokens == 3
                stream = client.chat.completions.create(model=MODEL, messages=says("hi"), stream=True, **long(3))
                assert list(stream)[-1].choices[0].finish_reason == "length"

        await asyncio.to_thread(work)

    async def main() -> None:
        async with serving(*(engine.url for engine in tiny_engines)) as served:
            await ask(served)

    asyncio.run(main())


async def test_errors_come_as_the_clients_own_exceptions(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (_, client):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="gpt-9", messages=says("hi"))
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as too_long:  # the engine's own refusal, passed on
            await client.chat.completions.create(model=MODEL, messages=says("word " * 20_000))
        assert "exceed" in str(too_long.value)
        with pytest.raises(openai.APIStatusError) as embeddings:
            await client.embeddings.create(model=MODEL, input="x")
        assert embeddings.value.status_code >= 400


async def test_a_client_that_leaves_a_stream_frees_the_engines_slot(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(tiny(ctx=16384, slots=2))
    async with in_front_of([engine]) as (served, client):
        stream = await client.chat.completions.create(model=MODEL, messages=says("go"), stream=True, **long(8000))
        await anext(aiter(stream))
        assert await busy_slots(engine) == 1
        left = time.perf_counter()
        await stream.close()
        while await busy_slots(engine):
            assert time.perf_counter() - left < 1.0, "the engine still works for a client that has left"
        logger.info("slot idle after %.0f ms", 1000 * (time.perf_counter() - left))  # seen with --log-cli-level=info
        await served.settled()
        assert await served.metric(f'llmgate_requests_total{{model="{MODEL}",endpoint="a",code="499"}}') == 1


async def test_an_engine_killed_under_load_loses_nothing_that_had_not_begun(
    start_engine: Callable[..., Engine],
) -> None:
    """More requests than slots, so that some wait inside the engine that dies."""
    engines = [start_engine(tiny(slots=2)), start_engine(tiny(slots=2))]
    answered: list[int] = []
    broken_off: list[tuple[bool, str]] = []  # whether it had begun, and what the client was told
    begun = asyncio.Event()

    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        any_text = False
        try:
            if number % 2:
                await client.chat.completions.create(model=MODEL, messages=says(f"q {number}"), **long(300))
            else:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=says(f"q {number}"), stream=True, **long(300)
                )
                async for _ in stream:
                    any_text = True
                    begun.set()
            answered.append(number)
        except openai.APIError as error:
            broken_off.append((any_text, str(error)))

    async with in_front_of(engines, router={"policy": "least-connections"}) as (served, client):
        running = [asyncio.create_task(one(client, number)) for number in range(40)]
        await begun.wait()
        engines[0].kill()
        await asyncio.gather(*running)
        assert len(answered) + len(broken_off) == 40
        assert len(answered) >= 36
        for had_begun, told in broken_off:
            assert had_begun, told
            assert "connection" in told
        assert served.open_charges == 0


async def test_200_streams_at_once_all_end_well(tiny_engines: Sequence[Engine]) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> int:
        stream = await client.chat.completions.create(
            model=MODEL, messages=says(f"q {number}"), stream=True, stream_options={"include_usage": True}, **long(20)
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        tokens: int = chunks[-1].usage.completion_tokens
        return tokens

    async with in_front_of(tiny_engines, router={"policy": "token-aware"}) as (served, client):
        assert await asyncio.gather(*(one(client, number) for number in range(200))) == [20] * 200
        assert served.open_charges == 0
        decided = Counter(decision.endpoint.name for decision in served.gateway.scheduler.decisions)
        assert min(decided.values()) >= 80, decided


async def test_a_drained_engine_finishes_its_stream_and_gets_no_more(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (served, client):
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=says("go"), stream=True, **long(600)
        )
        where = raw.headers["x-llmgate-endpoint"]
        stream = raw.parse()
        await anext(aiter(stream))
        assert (await served.admin.post(f"/api/endpoints/{where}/drain")).status_code == 200
        for _ in range(6):
            other = await client.chat.completions.with_raw_response.create(model=MODEL, messages=says("hi"), **long(2))
            assert other.headers["x-llmgate-endpoint"] != where
        rest = [chunk async for chunk in stream]
        assert rest[-1].choices[0].finish_reason == "length"


async def test_a_conversation_stays_on_the_engine_that_has_it_cached(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines, router={"policy": "prefix-affinity"}) as (_, client):
        conversation: Messages = [{"role": "system", "content": "You are a careful guide. " * 20}]
        places, cached = [], 0
        for turn in range(3):
            conversation.append({"role": "user", "content": f"Question {turn}, please. " * 5})
            raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=conversation, **long(8))
            answer = raw.parse()
            places.append(raw.headers["x-llmgate-endpoint"])
            conversation.append({"role": "assistant", "content": answer.choices[0].message.content})
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached = answer.usage.prompt_tokens_details.cached_tokens or 0
        assert len(set(places)) == 1
        assert cached > 100


async def test_the_estimate_learns_from_the_engines_usage(tiny_engines: Sequence[Engine]) -> None:
    async with in_front_of(tiny_engines) as (served, client):
        prompts = [f"Tell me about the {number} wonders of the world and why they matter. " * 8 for number in range(60)]
        for prompt in prompts:
            await client.chat.completions.create(model=MODEL, messages=says(prompt), max_tokens=1)
        answer = await client.chat.completions.create(model=MODEL, messages=says(prompts[0]), max_tokens=1)
        assert answer.usage is not None
        estimate = served.gateway.scheduler.decisions[-1].prompt_tokens
        assert estimate == pytest.approx(answer.usage.prompt_tokens, rel=0.1)
        await until(lambda: served.open_charges == 0)
