"""The main job against two real engines of one model, of any make. Two ways to have them:

    scripts/test --vllm                   installs vLLM's build for the CPU, starts two servers, and runs this
    LLMGATE_TEST_ENGINES="http://127.0.0.1:8000 http://127.0.0.1:8001" scripts/test tests/integration -k given

The second is for engines that run already: vLLM, SGLang and TGI on machines with GPUs. LLMGATE_TEST_KILL, if set, is a
shell command that kills the first of them. What a make cannot do is left out by its name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

from llmgate.core.health import State
from llmgate.probes.page import Page
from llmgate.wire.engine_metrics import parse_metrics
from llmgate.wire.engines import ENGINES
from tests import vllm
from tests.support.fake_engine import until
from tests.support.serving import Served, serving

logger = logging.getLogger(__name__)

URLS = os.environ.get("LLMGATE_TEST_ENGINES", "").split()
KILL = os.environ.get("LLMGATE_TEST_KILL", "")
PATIENCE = 120.0  # seconds; the machine may be busy with more than this

pytestmark = pytest.mark.skipif(not URLS and not vllm.WANTED, reason="no engines: see the file's first lines")


@dataclass
class Engines:
    urls: list[str]
    kill_first: Callable[[], None] | None


def kill_first_given() -> None:
    subprocess.run(KILL, shell=True, check=True)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    if URLS:
        yield Engines(URLS, kill_first_given if KILL else None)
        return
    with vllm.start_vllm(2) as servers:
        yield Engines([server.url for server in servers], servers[0].kill)


@asynccontextmanager
async def gateway(engines: Engines, **sections: Any) -> AsyncIterator[tuple[Served, openai.AsyncOpenAI, str]]:
    async with (
        serving(*engines.urls, **sections) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0, timeout=PATIENCE) as client,
    ):
        await until(lambda: all(endpoint.health.available for endpoint in served.gateway.pool), PATIENCE)
        yield served, client, served.gateway.pool.models[0]


def makes(served: Served) -> set[str | None]:
    return {endpoint.engine for endpoint in served.gateway.pool}


def chat(model: str, tokens: int, text: str = "Tell me a story.", **body: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "extra_body": {"ignore_eos": True, **body},
    }


async def pages(served: Served) -> list[tuple[str, bytes]]:
    """Make and metrics page of each engine, asked for now."""
    found = []
    for endpoint in served.gateway.pool:
        assert endpoint.engine is not None
        page: Page = await served.gateway._fetch(endpoint, ENGINES[endpoint.engine].metrics_paths[0], 10.0)
        found.append((endpoint.engine, page.body))
    return found


async def running(served: Served) -> int:
    """Requests that the engines themselves say they run."""
    counts = [parse_metrics(engine, page, 0.0).running for engine, page in await pages(served)]
    assert None not in counts
    return sum(filter(None, counts))


async def test_engines_are_recognised_and_their_gauges_read(engines: Engines) -> None:
    async with gateway(engines) as (served, client, model):
        await until(lambda: all(endpoint.metrics is not None for endpoint in served.gateway.pool), PATIENCE)
        for endpoint in served.gateway.pool:
            logger.info("%s: %s, %s, %s", endpoint.spec.url, endpoint.engine, model, endpoint.metrics)
            assert endpoint.engine not in (None, "openai")
            assert endpoint.metrics is not None
            assert endpoint.metrics.running is not None
            assert endpoint.metrics.waiting is not None
        if makes(served) <= {"vllm", "sglang", "trtllm"}:

            async def keep_busy() -> None:
                """A tiny model is done with 2,000 tokens between two looks at it."""
                while True:
                    async for _ in await client.chat.completions.create(stream=True, **chat(model, 2000)):
                        pass

            def holds_something() -> bool:
                readings = [endpoint.metrics for endpoint in served.gateway.pool]
                assert all(each and each.kv_capacity_tokens and each.kv_usage is not None for each in readings)
                return any(each and each.running and each.kv_usage for each in readings)

            busy = asyncio.create_task(keep_busy())
            await until(holds_something, PATIENCE)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            await served.settled()


async def test_chats_are_answered_whole_and_streamed_with_usage(engines: Engines) -> None:
    async with gateway(engines) as (_, client, model):
        whole = await client.chat.completions.create(**chat(model, 5))
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        stream = await client.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **chat(model, 20)
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 20
        text = await client.completions.create(model=model, prompt="Once upon a time", max_tokens=5)
        assert text.usage is not None
        assert text.usage.completion_tokens <= 5


async def test_several_choices_and_logprobs_pass(engines: Engines) -> None:
    async with gateway(engines) as (_, client, model):
        answer = await client.chat.completions.create(n=3, logprobs=True, top_logprobs=2, **chat(model, 4))
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        for choice in answer.choices:
            assert choice.logprobs is not None
            assert choice.logprobs.content is not None
            assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 4


async def test_json_by_schema_passes(engines: Engines) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": schema}}
    async with gateway(engines) as (_, client, model):
        asked: Any = [{"role": "user", "content": "Plan a trip."}]
        answer = await client.chat.completions.create(
            model=model, messages=asked, max_tokens=100, response_format=wanted
        )
        trip = json.loads(answer.choices[0].message.content or "")
        assert trip.keys() == {"city", "days"}
        assert trip["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_that_must_be_called_is_called(streamed: bool, engines: Engines) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 100,
    }
    async with gateway(engines) as (_, client, model):
        if streamed:
            name, arguments, finish = "", "", None
            async for chunk in await client.chat.completions.create(model=model, stream=True, **request):
                for each in chunk.choices:
                    finish = each.finish_reason or finish
                    for call in each.delta.tool_calls or ():
                        assert call.function is not None
                        name += call.function.name or ""
                        arguments += call.function.arguments or ""
        else:
            answer = await client.chat.completions.create(model=model, **request)
            assert answer.choices[0].message.tool_calls is not None
            (whole,) = answer.choices[0].message.tool_calls
            assert whole.type == "function"
            name, arguments, finish = whole.function.name, whole.function.arguments, answer.choices[0].finish_reason
        logger.info("%s(%s), finish reason %s", name, arguments, finish)
        assert name == "get_weather"
        assert arguments
        if finish in ("stop", "tool_calls"):
            json.loads(arguments)


async def test_the_engines_own_errors_pass(engines: Engines) -> None:
    async with gateway(engines) as (_, client, model):
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**chat("no-such-model", 5))
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**chat(model, 5, "word " * 200_000))
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.chat.completions.create(temperature=-3.0, **chat(model, 5))
        assert "temperature" in str(wrong.value)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_frees_its_engine_within_half_a_second(streamed: bool, engines: Engines) -> None:
    """The best of three counts: it is the engine's and our time that is meant, not that of a busy machine."""
    async with gateway(engines) as (served, client, model):
        took: list[float] = []
        while not took or (min(took) >= 0.5 and len(took) < 3):
            asked = asyncio.create_task(client.chat.completions.create(stream=streamed, **chat(model, 3000)))
            while not await running(served):
                assert not asked.done() or streamed
                await asyncio.sleep(0.005)
            left = time.perf_counter()
            if streamed:
                stream = await asked
                left = time.perf_counter()
                assert isinstance(stream, openai.AsyncStream)
                await stream.close()
            else:
                asked.cancel()
            while await running(served):
                assert time.perf_counter() - left < PATIENCE, "the engine still works for a client that has left"
            took.append(time.perf_counter() - left)
        logger.info("idle after %s ms", ", ".join(f"{1000 * each:.0f}" for each in took))
        assert min(took) < 0.5
        await served.settled()


async def test_the_estimate_comes_close_to_what_the_engine_counts(engines: Engines) -> None:
    async with gateway(engines) as (served, client, model):
        texts = [f"Tell me about the {number} wonders of the world and why they matter. " * 8 for number in range(40)]
        for text in texts:
            answer = await client.chat.completions.create(**chat(model, 1, text))
        assert answer.usage is not None
        estimate = served.gateway.scheduler.decisions[-1].prompt_tokens
        assert estimate == pytest.approx(answer.usage.prompt_tokens, rel=0.1)


class Ideal:
    """What one cache that forgets nothing would have hit: whole blocks of the longest beginning seen before."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.hits = 0
        self.prompts = 0
        self._seen: set[tuple[int, ...]] = set()

    def asked(self, prompt: list[int]) -> None:
        """The last token of a prompt is always computed."""
        self.prompts += len(prompt)
        whole = (len(prompt) - 1) // self.block
        self.hits += (
            next((n for n in range(whole, 0, -1) if tuple(prompt[: n * self.block]) in self._seen), 0) * self.block
        )

    def answered(self, tokens: list[int]) -> None:
        """Prompt and answer; the keys and values of its last token were never needed."""
        for n in range(1, (len(tokens) - 1) // self.block + 1):
            self._seen.add(tuple(tokens[: n * self.block]))


async def cache_counters(served: Served) -> tuple[float, float]:
    """vLLM's own: prompt tokens looked up, and found, by all engines."""
    sums = dict.fromkeys(("queries", "hits"), 0.0)
    for _, page in await pages(served):
        for name, value in re.findall(rb"(?m)^vllm:prefix_cache_(queries|hits)_total\{.*\} (\S+)$", page):
            sums[name.decode()] += float(value)
    return sums["queries"], sums["hits"]


async def test_conversations_hit_their_prefixes_as_in_one_big_cache(engines: Engines) -> None:
    """24 conversations of 6 turns, 6 at a time, three system prompts; token ids as the engine itself tells them."""
    async with gateway(engines, router={"policy": "prefix-affinity"}) as (served, client, model):
        if makes(served) != {"vllm"}:
            pytest.skip("only vLLM tells token ids and what its cache was asked for")
        (_, page), *_ = await pages(served)
        block = re.search(rb'\bblock_size="(\d+)"', page)
        assert block is not None
        ideal = Ideal(int(block[1]))
        before = await cache_counters(served)
        turns = asyncio.Semaphore(6)
        placed: dict[int, set[str]] = {}

        async def converse(number: int) -> None:
            rule = f"Rule {number % 3}: be a careful guide, and answer with reasons and examples. "
            messages: list[Any] = [{"role": "system", "content": rule * 20}]
            async with turns:
                for turn in range(6):
                    messages.append({"role": "user", "content": f"Question {turn} of {number}, with details. " * 12})
                    raw = await client.chat.completions.with_raw_response.create(
                        model=model,
                        messages=messages,
                        max_tokens=40,
                        extra_body={"ignore_eos": True, "return_token_ids": True},
                    )
                    placed.setdefault(number, set()).add(raw.headers["x-llmgate-endpoint"])
                    answer = json.loads(raw.content)
                    ideal.asked(answer["prompt_token_ids"])
                    ideal.answered(answer["prompt_token_ids"] + answer["choices"][0]["token_ids"])
                    messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})

        await asyncio.gather(*(converse(number) for number in range(24)))
        queries, hits = (after - start for after, start in zip(await cache_counters(served), before, strict=True))
        logger.info(
            "blocks of %d: %.0f of %.0f prompt tokens hit, ideal %d: %.3f of it; %d of 24 conversations stayed",
            ideal.block, hits, queries, ideal.hits, hits / ideal.hits, sum(len(each) == 1 for each in placed.values()),
        )  # fmt: skip
        assert queries == ideal.prompts
        assert ideal.hits > 0.4 * queries
        assert hits >= 0.95 * ideal.hits
        assert len(set().union(*placed.values())) == 2, "one engine did it all"


async def test_an_engine_that_sleeps_gets_nothing_until_it_wakes(engines: Engines) -> None:
    async with (
        gateway(engines) as (served, client, model),
        httpx2.AsyncClient(verify=False, timeout=PATIENCE) as direct,
    ):
        slept = await direct.post(f"{engines.urls[0]}/sleep?level=1")
        if slept.status_code == 404:
            pytest.skip("this engine cannot be put to sleep")
        assert slept.status_code == 200
        try:
            await until(lambda: served.state("a") is State.DOWN, PATIENCE)
            assert (await direct.get(f"{engines.urls[0]}/health")).status_code == 200
            for _ in range(6):
                raw = await client.chat.completions.with_raw_response.create(**chat(model, 2))
                assert raw.headers["x-llmgate-endpoint"] == "b"
        finally:
            assert (await direct.post(f"{engines.urls[0]}/wake_up")).status_code == 200
        await until(lambda: served.state("a") is State.UP, PATIENCE)


async def test_zz_an_engine_killed_under_load_loses_nothing_that_had_not_begun(engines: Engines) -> None:
    """The last one, for it leaves one engine."""
    if engines.kill_first is None:
        pytest.skip("LLMGATE_TEST_KILL is not set")
    broken: list[bool] = []  # whether it had begun

    async def one(number: int) -> bool:
        begun = False
        try:
            if number % 2:
                await client.chat.completions.create(**chat(model, 200, f"Story {number}"))
                return True
            raw = await client.chat.completions.with_raw_response.create(
                stream=True, **chat(model, 200, f"Story {number}")
            )
            begun = True  # the gateway sends the head with the first bytes
            async for _ in raw.parse():
                if raw.headers["x-llmgate-endpoint"] == "a":
                    a_streams.set()
        except openai.APIError:
            broken.append(begun)
            return False
        return True

    async with gateway(engines, router={"policy": "least-connections"}) as (served, client, model):
        a_streams = asyncio.Event()
        tasks = [asyncio.create_task(one(number)) for number in range(60)]
        await a_streams.wait()
        await asyncio.to_thread(engines.kill_first)
        answered = sum(await asyncio.gather(*tasks))
        logger.info("%d answered, %d broken off after they had begun", answered, len(broken))
        assert broken, "it was not killed in the middle of its work"
        assert all(broken), "a request that had not begun was lost"
        assert answered >= 25
        assert served.open_charges == 0
        assert (await client.chat.completions.create(**chat(model, 2))).usage is not None
