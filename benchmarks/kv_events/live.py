"""What the gateway thought an engine held, against what the engine says it held:
`python -m benchmarks.kv_events.live --gateway URL --admin URL --engine URL …`.

Conversations that share system prompts, turn by turn and some at a time, go through the gateway. Of each request its
decision (`GET /api/decisions`) says how many tokens the chosen endpoint was thought to hold, and the answer's usage how
many it did hold (vLLM needs `--enable-prompt-tokens-details`). The engines' own counters of hits
(`vllm:prefix_cache_hits_total`) are read before and after.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import click
import httpx2

HITS = re.compile(r"^vllm:prefix_cache_(hits|queries)_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass
class Tally:
    requests: int = 0
    failed: int = 0
    prompt: int = 0
    thought: int = 0  # cached tokens, by the decision
    held: int = 0  # by the engine
    wrong: int = 0  # the sum of what the two are apart
    exact: int = 0  # requests where they agree
    by_source: dict[str, int] = field(default_factory=dict)
    worst: list[tuple[int, int, int]] = field(default_factory=list)


class Load:
    def __init__(self, gateway: httpx2.AsyncClient, admin: httpx2.AsyncClient, model: str, seed: int) -> None:
        self._gateway, self._admin, self._model = gateway, admin, model
        self._random = Random(seed)
        self.tally = Tally()

    def text(self, words: int) -> str:
        return " ".join(f"{self._random.choice('bcdfgklmnprst')}{self._random.randrange(5000)}" for _ in range(words))

    async def conversation(self, system: str, turns: int, most: int, width: asyncio.Semaphore) -> None:
        messages = [{"role": "system", "content": system}]
        for _ in range(turns):
            messages.append({"role": "user", "content": self.text(self._random.randrange(10, 60))})
            async with width:
                answer = await self.turn(messages, most)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer})

    async def turn(self, messages: Sequence[dict[str, str]], most: int) -> str | None:
        request_id = f"live-{self._random.getrandbits(64):x}"
        tally = self.tally
        said = await self._gateway.post(
            "/v1/chat/completions",
            json={"model": self._model, "messages": messages, "max_tokens": most, "temperature": 0},
            headers={"x-request-id": request_id},
        )
        if said.status_code != 200:
            tally.failed += 1
            return None
        usage = said.json()["usage"]
        decision = await self._decision(request_id)
        if decision is None:
            tally.failed += 1
            return None
        thought, held = decision["cached_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
        tally.requests += 1
        tally.prompt += usage["prompt_tokens"]
        tally.thought += thought
        tally.held += held
        tally.wrong += abs(thought - held)
        tally.exact += thought == held
        source = decision["candidates"][0]["cached_source"]
        tally.by_source[source] = tally.by_source.get(source, 0) + 1
        tally.worst = sorted([*tally.worst, (thought - held, thought, held)], key=lambda each: -abs(each[0]))[:5]
        text: str = said.json()["choices"][0]["message"]["content"] or ""
        return text

    async def _decision(self, request_id: str) -> dict[str, Any] | None:
        for decision in (await self._admin.get("/api/decisions")).json():
            if decision["request_id"] == request_id:
                found: dict[str, Any] = decision
                return found
        return None


async def counters(engines: Sequence[str]) -> dict[str, float]:
    """Prompt tokens asked for and hit, of all engines together."""
    total = {"hits": 0.0, "queries": 0.0}
    async with httpx2.AsyncClient(timeout=60) as client:
        for engine in engines:
            for what, value in HITS.findall((await client.get(f"{engine}/metrics")).text):
                total[what] += float(value)
    return total


async def run(
    gateway: str, admin: str, engines: Sequence[str], model: str, conversations: int, systems: int, turns: int,
    system_words: int, most: int, concurrency: int, seed: int,
) -> None:  # fmt: skip
    async with (
        httpx2.AsyncClient(base_url=gateway, timeout=600) as data,
        httpx2.AsyncClient(base_url=admin, timeout=600) as control,
    ):
        load = Load(data, control, model, seed)
        prompts = [load.text(system_words) for _ in range(systems)]
        width = asyncio.Semaphore(concurrency)
        before = await counters(engines)
        async with asyncio.TaskGroup() as group:
            for number in range(conversations):
                group.create_task(load.conversation(prompts[number % systems], turns, most, width))
        after = await counters(engines)
    report(load.tally, {what: after[what] - before[what] for what in before}, bool(engines))


def report(tally: Tally, counted: dict[str, float], engines: bool) -> None:
    say = partial(click.echo, nl=False)
    say(f"{tally.requests} requests, {tally.failed} failed; prompt tokens {tally.prompt}\n")
    say(f"cached tokens: decisions {tally.thought}, usage {tally.held}")
    say(f" ({(tally.thought / max(tally.held, 1) - 1) * 100:+.2f} %)\n")
    say(f"apart by {tally.wrong} tokens in all ({tally.wrong / max(tally.held, 1) * 100:.2f} %)")
    say(f"; {tally.exact} of {tally.requests} requests agree exactly; by {tally.by_source}\n")
    say(f"furthest apart (difference, decision, usage): {tally.worst}\n")
    if engines:
        say(f"engines' own counters: hits {counted['hits']:.0f} of {counted['queries']:.0f} tokens;")
        say(f" decisions {(tally.thought / max(counted['hits'], 1) - 1) * 100:+.2f} %\n")


@click.command()
@click.option("--gateway", default="http://127.0.0.1:8080", show_default=True)
@click.option("--admin", default="http://127.0.0.1:8081", show_default=True)
@click.option("--engine", "engines", multiple=True, help="URL of an engine whose counters are read; repeatable.")
@click.option("--model", default="random-llama", show_default=True)
@click.option("--conversations", default=24, show_default=True)
@click.option("--systems", default=4, show_default=True, help="Different system prompts.")
@click.option("--turns", default=4, show_default=True)
@click.option("--system-words", default=150, show_default=True)
@click.option("--max-tokens", "most", default=16, show_default=True)
@click.option("--concurrency", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(**options: Any) -> None:
    asyncio.run(run(**options))


if __name__ == "__main__":
    main()
