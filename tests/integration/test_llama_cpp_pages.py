"""What a llama.cpp server of today answers is still what its recorded pages say."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx2

from llmgate.demo.engines import Engine
from llmgate.wire.engines import ENGINES
from tests.engines import tiny
from tests.support.fake_engine import until
from tests.support.serving import serving
from tests.wire.engine_pages import recorded

NAMES = re.compile(r"(?m)^(llamacpp:\w+)")


async def test_it_is_recognised_and_read_in_full(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(tiny(ctx=4096, slots=2))
    async with serving(engine.url) as served:
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        await until(lambda: endpoint.metrics is not None)
        assert endpoint.engine == "llamacpp"
        metrics = endpoint.metrics
        assert metrics is not None
        assert (metrics.running, metrics.waiting) == (0, 0)
        assert (metrics.kv_capacity_tokens, metrics.max_running) == (4096, 2)


async def test_no_gauge_that_is_read_has_got_another_name(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(tiny(ctx=4096, slots=2))
    async with httpx2.AsyncClient(base_url=engine.url, verify=False) as client:
        page = (await client.get("/metrics")).text
    before = set(NAMES.findall(recorded("llamacpp-2026.10/metrics-idle.txt").decode()))
    now = set(NAMES.findall(page))
    assert before <= now, "record its pages anew, and add the new names to those that are known"
    assert {ENGINES["llamacpp"].running[0], ENGINES["llamacpp"].waiting[0]} <= now
