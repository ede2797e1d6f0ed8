"""Measures a real vLLM on this machine's CPU: concurrent streams of prompts and answers of many lengths."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import httpx2
import numpy as np

from benchmarks.sim_validation.measurement import Timings, Workload, timings
from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import EngineRequest

MODEL = "random-llama"
TOKENS = (100, 49_000)  # ids that are words
START = EngineProfile(
    name="cpu:random-llama",
    model=MODEL,
    step_s=0.02,
    sequence_s=0.002,
    kv_token_s=1e-6,
    prefill_token_s=1e-4,
    prefill_pair_s=1e-9,
    kv_tokens=524_288,
    block_tokens=128,
    max_batch_tokens=2048,
    max_running=128,
    max_model_len=4096,
)
"""Where the fit begins, its times so much quicker that a step takes what was measured; blocks and limits are vLLM's on
a CPU (cache_config_info of its metrics)."""


def measure(count: int, rate: float) -> tuple[str, EngineProfile, Workload, Timings]:
    from tests.vllm import start_vllm

    random = Random(1)
    arrivals = np.cumsum([random.expovariate(rate) for _ in range(count)])
    sizes = [(random.randrange(32, 1500), random.randrange(8, 120)) for _ in range(count)]
    prompts = [[random.randrange(*TOKENS) for _ in range(prompt)] for prompt, _ in sizes]
    with start_vllm(1) as (server,):
        asyncio.run(_drive(server.url, [0.0, 0.1, 0.2], prompts[:3], [(len(p), 8) for p in prompts[:3]]))
        prompts = [[random.randrange(*TOKENS) for _ in prompt] for prompt in prompts]  # none that is cached
        first, last, gauges = asyncio.run(_drive(server.url, arrivals.tolist(), prompts, sizes))
    requests = [EngineRequest(n, prompt, output) for n, (prompt, output) in enumerate(sizes)]
    outputs = np.array([output for _, output in sizes], dtype=float)
    measured = timings(np.array(first), np.array(last), arrivals, outputs, np.array(gauges).reshape(-1, 3))
    # as quick as its quickest: a fit that begins in an overload which was none does not find out of it
    quick = float(np.nanpercentile(measured.tpot[: count // 2], 10)) / START.step_s
    start = replace(
        START,
        **{name: quick * getattr(START, name) for name in ("step_s", "sequence_s", "kv_token_s", "prefill_token_s")},
    )
    return START.name, start, Workload(arrivals.tolist(), requests), measured


async def _drive(
    url: str, arrivals: Sequence[float], prompts: Sequence[list[int]], sizes: Sequence[tuple[int, int]]
) -> tuple[list[float], list[float], list[tuple[float, float, float]]]:
    """First and last token of each, and (second, running, waiting), from the start (s)."""
    first, last = [0.0] * len(prompts), [0.0] * len(prompts)
    gauges: list[tuple[float, float, float]] = []
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        start = time.monotonic()

        async def ask(n: int) -> None:
            await asyncio.sleep(arrivals[n] - (time.monotonic() - start))
            body = {
                "model": MODEL,
                "prompt": prompts[n],
                "max_tokens": sizes[n][1],
                "ignore_eos": True,
                "stream": True,
                "temperature": 0.0,
            }
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        last[n] = time.monotonic() - start
                        first[n] = first[n] or last[n]

        async def watch() -> None:
            while True:
                await asyncio.sleep(1.0)
                text = (await client.get("/metrics")).text
                gauges.append((time.monotonic() - start, _gauge(text, "running"), _gauge(text, "waiting")))

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(ask(n) for n in range(len(prompts))))
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return first, last, gauges


def _gauge(text: str, state: str) -> float:
    name = f"vllm:num_requests_{state}{{"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
