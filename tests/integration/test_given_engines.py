"""The same against engines that are running already, of any make: two of one model, by URL, in LLMGATE_TEST_ENGINES.

    LLMGATE_TEST_ENGINES="http://127.0.0.1:8000 http://127.0.0.1:8001" scripts/test tests/integration -k given

vLLM, SGLang and TGI need machines that CI has not. LLMGATE_TEST_KILL, if set, is a shell command that kills the first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from llmgate.probes.page import Page
from llmgate.wire.engine_metrics import parse_metrics
from llmgate.wire.engines import ENGINES
from tests.support.fake_engine import until
from tests.support.serving import Served, serving

logger = logging.getLogger(__name__)

URLS = os.environ.get("LLMGATE_TEST_ENGINES", "").split()
KILL = os.environ.get("LLMGATE_TEST_KILL", "")

pytestmark = pytest.mark.skipif(not URLS, reason="LLMGATE_TEST_ENGINES names no engines: see the file's first lines")


@asynccontextmanager
async def gateway(**sections: Any) -> AsyncIterator[tuple[Served, openai.AsyncOpenAI, str]]:
    async with (
        serving(*URLS, **sections) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0, timeout=120) as client,
    ):
        await until(lambda: all(endpoint.health.available for endpoint in served.gateway.pool))
        yield served, client, served.gateway.pool.models[0]


def chat(model: str, tokens: int, text: str = "Tell me a story.") -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "extra_body": {"ignore_eos": True},
    }


async def running(served: Served) -> int:
    """Requests that the engines themselves say they run, asked for now."""
    counts = []
    for endpoint in served.gateway.pool:
        assert endpoint.engine is not None
        page: Page = await served.gateway._fetch(endpoint, ENGINES[endpoint.engine].metrics_paths[0], 5.0)
        counts.append(parse_metrics(endpoint.engine, page.body, 0.0).running)
    assert None not in counts
    return sum(filter(None, counts))


async def test_engines_are_recognised_and_their_gauges_read() -> None:
    async with gateway() as (served, _, model):
        await until(lambda: all(endpoint.metrics is not None for endpoint in served.gateway.pool))
        for endpoint in served.gateway.pool:
            logger.info("%s: %s, %s, %s", endpoint.spec.url, endpoint.engine, model, endpoint.metrics)
            assert endpoint.engine not in (None, "openai")
            assert endpoint.metrics is not None
            assert endpoint.metrics.running is not None


async def test_chats_are_answered_whole_and_streamed_with_usage() -> None:
    async with gateway() as (_, client, model):
        whole = await client.chat.completions.create(**chat(model, 5))
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        stream = await client.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **chat(model, 20)
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 20


async def test_the_engines_own_errors_pass() -> None:
    async with gateway() as (_, client, model):
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**chat("no-such-model", 5))
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**chat(model, 5, "word " * 200_000))


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_frees_its_engine(streamed: bool) -> None:
    async with gateway() as (served, client, model):
        asked = asyncio.create_task(client.chat.completions.create(stream=streamed, **chat(model, 3000)))
        while not await running(served):
            assert not asked.done() or streamed
            await asyncio.sleep(0.005)
        left = time.perf_counter()
        if streamed:
            stream = await asked
            assert isinstance(stream, openai.AsyncStream)
            await stream.close()
        else:
            asked.cancel()
        while await running(served):
            assert time.perf_counter() - left < 1.0, "the engine still works for a client that has left"
        logger.info("idle after %.0f ms", 1000 * (time.perf_counter() - left))
        await served.settled()


async def test_the_estimate_comes_close_to_what_the_engine_counts() -> None:
    async with gateway() as (served, client, model):
        texts = [f"Tell me about the {number} wonders of the world and why they matter. " * 8 for number in range(40)]
        for text in texts:
            answer = await client.chat.completions.create(**chat(model, 1, text))
        assert answer.usage is not None
        estimate = served.gateway.scheduler.decisions[-1].prompt_tokens
        assert estimate == pytest.approx(answer.usage.prompt_tokens, rel=0.1)


@pytest.mark.skipif(not KILL, reason="LLMGATE_TEST_KILL is not set")
async def test_zz_an_engine_killed_under_load_loses_nothing_that_had_not_begun() -> None:
    broken: list[bool] = []  # whether it had begun

    async def one(number: int) -> bool:
        begun = False
        try:
            async for _ in await client.chat.completions.create(stream=True, **chat(model, 400, f"Story {number}")):
                begun = True
                started.set()
        except openai.APIError:
            broken.append(begun)
            return False
        return True

    async with gateway(router={"policy": "least-connections"}) as (served, client, model):
        started = asyncio.Event()
        tasks = [asyncio.create_task(one(number)) for number in range(60)]
        await started.wait()
        await (await asyncio.create_subprocess_shell(KILL)).wait()
        answered = sum(await asyncio.gather(*tasks))
        logger.info("%d answered, %d broken off after they had begun", answered, len(broken))
        assert all(broken), "a request that had not begun was lost"
        assert answered >= 25
        assert served.open_charges == 0
