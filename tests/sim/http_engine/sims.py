"""Simulated engines for tests: on sockets, and one whose clock is moved by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self, cast

import httpx2

from llmgate.engines.engine import Engine
from llmgate.engines.profile import EngineProfile
from llmgate.sim.http_engine.clock import EngineClock
from llmgate.sim.http_engine.completions import Completions
from llmgate.sim.http_engine.http import Connection, Exchange
from llmgate.sim.http_engine.job import Job
from llmgate.sim.http_engine.kv_events import Event
from llmgate.sim.http_engine.metrics import Metrics
from llmgate.sim.http_engine.models import Models
from llmgate.sim.http_engine.server import SimEngine
from llmgate.sim.http_engine.service import EngineService
from llmgate.sim.http_engine.settings import Settings

PATIENCE = 20.0  # s, for what a broken test would wait for without end

# round numbers, so that times can be worked out: a step takes 10 ms, a prompt token 1 ms, a decoding sequence 1 ms
PROFILE = EngineProfile(
    name="test:m",
    model="m",
    step_s=0.010,
    sequence_s=0.001,
    kv_token_s=0.0,
    prefill_token_s=0.001,
    prefill_pair_s=0.0,
    kv_tokens=4096,
    block_tokens=16,
    max_batch_tokens=512,
    max_running=4,
    max_model_len=2048,
)

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5}


def settings(**changes: Any) -> Settings:
    """An engine a thousand times as fast as its profile says, unless told otherwise."""
    return replace(Settings(PROFILE, "m", speed=1000.0), **changes)


class Sim:
    """A simulated engine on a free port of 127.0.0.1, and a client of it."""

    def __init__(self, engine: SimEngine, port: int) -> None:
        self.engine = engine
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE, verify=False)  # there is no TLS here

    async def post(self, path: str, body: object = None, **headers: str) -> httpx2.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=given)

    async def chat(self, **changes: Any) -> httpx2.Response:
        return await self.post("/v1/chat/completions", HELLO | changes)

    async def metric(self, line: str) -> float:
        """The value of one series, given by name and labels as they stand on the page."""
        page = (await self.client.get("/metrics")).text
        [found] = [each.rpartition(" ")[2] for each in page.splitlines() if each.startswith(f"{line} ")]
        return float(found)

    async def load(self) -> int:
        return int((await self.client.get("/load")).json()["server_load"])

    async def until_load(self, load: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.load() != load:
                await asyncio.sleep(0)


@asynccontextmanager
async def simulated(die: Any = None, **changes: Any) -> AsyncIterator[Sim]:
    engine = SimEngine(settings(**changes), die)
    sim = Sim(engine, await engine.start("127.0.0.1", 0))
    try:
        yield sim
    finally:
        await sim.client.aclose()
        await engine.close()


def events(text: str) -> list[Any]:
    """What a stream holds: JSON, and `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class HandAlarm:
    """Rings when the test says that it is time."""

    when = float("inf")

    def set(self, when: float) -> None:
        self.when = when

    def close(self) -> None:
        self.when = float("inf")


class Wire:
    """A connection that keeps what is written to it; HTTP/1.0, so that bodies stand there as they are."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.transport = self
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def answered(self, *, keep_alive: bool) -> None:
        self.closed = not keep_alive

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    @property
    def body(self) -> bytes:
        """Without the head, which is written by itself."""
        return self.written.partition(b"\r\n\r\n")[2]

    @property
    def tokens(self) -> int:
        """Events with a piece of the answer."""
        return self.written.count(b'"delta":{"content":') + self.written.count(b'"text":"')


class ByHand:
    """The service with a wall clock that stands still until it is moved; `speed` as for EngineClock."""

    def __init__(self, speed: float = 1.0, tick_s: float = 0.005, **changes: Any) -> None:
        self.wall = 100.0
        self.settings = settings(speed=speed, tick_s=tick_s, **changes)
        self.published: list[list[Event]] = []
        profile = self.settings.profile
        self.clock = EngineClock(speed, lambda: self.wall)
        self.alarm = HandAlarm()
        self.metrics = Metrics(profile, "m", speed)
        self.service = EngineService(
            Engine(profile, cache_events=True, priority_queue=self.settings.priority_queue),
            self.clock,
            self.metrics,
            lambda ring: self.alarm,
            tick_s=tick_s,
            publish=self.published.append,
        )
        self._completions = Completions(self.settings, Models("m", profile.max_model_len, self.settings.lora))

    def send(self, body: dict[str, Any], *, chat: bool = True, late: float = 0.0, **headers: str) -> tuple[Job, Wire]:
        """A request that is there now, and is read only `late` seconds later."""
        wire = Wire()
        given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        exchange = Exchange(cast("Connection", wire), "POST", b"/v1", given)
        exchange.complete(json.dumps(body).encode(), self.wall, keep_alive=True, chunked=False)
        job = self._completions.job(exchange, chat=chat)
        self.wall += late
        self.service.submit(job, exchange.arrived)
        return job, wire

    def run(self, seconds: float, late: float = 0.0) -> Self:
        """Let so much time pass; the alarm rings each time when it is set, `late` seconds after that."""
        end = self.wall + seconds
        while self.alarm.when <= end:
            self.wall = max(self.wall, self.alarm.when + late)
            self.service.look()
        self.wall = max(self.wall, end)
        return self
