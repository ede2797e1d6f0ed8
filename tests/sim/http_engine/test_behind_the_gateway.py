"""llmgate's own gateway in front of simulated engines, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2

from tests.sim.http_engine.sims import HELLO, PATIENCE, PROFILE, Sim, simulated
from tests.support.serving import Served, serving

LONG = HELLO | {"max_tokens": 1900, "ignore_eos": True}  # 20 s at the profile's pace


@asynccontextmanager
async def two_behind(**changes: Any) -> AsyncIterator[tuple[Served, Sim, Sim]]:
    async with (
        simulated(**changes) as one,
        simulated(**changes) as two,
        serving(one.url, two.url, scrape={"interval": 0.05}) as served,
    ):
        yield served, one, two


async def chat(served: Served, body: dict[str, Any] = HELLO) -> httpx2.Response:
    return await served.chat(body, content_type="application/json")  # vLLM takes nothing else


async def running(*sims: Sim) -> list[float]:
    return [await sim.metric('vllm:num_requests_running{engine="0",model_name="m"}') for sim in sims]


async def endpoints(served: Served) -> list[Any]:
    answer = (await served.admin.get("/api/endpoints")).json()
    return list(answer["endpoints"] if isinstance(answer, dict) else answer)


async def test_it_is_taken_for_vllm_and_its_gauges_are_read() -> None:
    small = replace(PROFILE, max_running=1)
    async with two_behind(profile=small, speed=1.0) as (served, one, two):
        waiting = [asyncio.create_task(chat(served, LONG)) for _ in range(4)]
        async with asyncio.timeout(PATIENCE):
            while await running(one, two) != [1, 1]:
                await asyncio.sleep(0)

            def read() -> list[tuple[Any, ...]]:
                metrics = [endpoint.metrics for endpoint in served.gateway.pool]
                return [(each.running, each.waiting, each.kv_capacity_tokens) for each in metrics if each is not None]

            while read() != [(1, 1, PROFILE.kv_tokens)] * 2:
                await asyncio.sleep(0)
        assert [endpoint["engine"] for endpoint in await endpoints(served)] == ["vllm", "vllm"]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_client_that_leaves_the_gateway_frees_the_engine() -> None:
    async with two_behind(speed=1.0) as (served, one, two):
        for stream in (True, False):
            waiting = asyncio.create_task(chat(served, LONG | {"stream": stream}))
            async with asyncio.timeout(PATIENCE):
                while sum(await running(one, two)) != 1:
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                while sum(await running(one, two)) or await one.load() or await two.load():
                    await asyncio.sleep(0)


async def test_answers_pass_and_an_engine_that_fails_is_replaced_by_the_other() -> None:
    async with two_behind() as (served, one, two):
        await one.post("/sim/faults", {"reject_rate": 1.0})
        answers = [await chat(served) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert {answer.headers["x-llmgate-endpoint"] for answer in answers} == {"b"}
        assert await two.metric('vllm:request_success_total{engine="0",model_name="m",finished_reason="length"}') > 0
