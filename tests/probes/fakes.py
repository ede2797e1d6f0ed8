"""Time moved by hand, and engines that answer by a script."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from itertools import count

from llmgate.core.errors import ConnectFailed, LlmgateError, UpstreamError
from llmgate.core.types import Endpoint
from llmgate.probes.page import Page
from tests.wire.engine_pages import recorded

Answer = Page | LlmgateError | None
"""None: the engine has no such page."""

REFUSED = ConnectFailed("connection refused")
HANGS = UpstreamError("hangs")  # this very object: the answer never comes


class ManualTime:
    """`clock` and `sleep` for whoever needs them; time passes in `advance` only."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), until))
        await until

    async def advance(self, seconds: float) -> None:
        """Wake every sleeper whose time comes within `seconds`, each at its time, and let it run until it waits."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, until = heapq.heappop(self._sleepers)
            if not until.done():
                until.set_result(None)
            await settle()
        self.now = end


async def settle() -> None:
    """Let every task run until it waits for something that only the test can bring about."""
    for _ in range(50):
        await asyncio.sleep(0)


def page(body: bytes = b"", status: int = 200, **headers: str) -> Page:
    named = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return Page(status, named, body)


def vllm(metrics: str = "vllm-0.32/metrics-idle.txt") -> dict[str, Answer]:
    return {
        "/health": page(),
        "/v1/models": page(recorded("vllm-0.32/models.json")),
        "/metrics": page(recorded(metrics)),
    }


def asleep() -> bytes:
    """The metrics of a vLLM that sleeps."""
    return recorded("vllm-0.32/metrics-idle.txt").replace(b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0')


def llamacpp() -> dict[str, Answer]:
    return {
        "/health": page(recorded("llamacpp-2026.10/health.json"), server="llama.cpp"),
        "/v1/models": page(recorded("llamacpp-2026.10/models.json"), server="llama.cpp"),
        "/metrics": page(recorded("llamacpp-2026.10/metrics-load.txt"), server="llama.cpp"),
        "/props": page(recorded("llamacpp-2026.10/props.json"), server="llama.cpp"),
    }


def models(*names: str) -> Page:
    return page(b'{"data": [%b]}' % b", ".join(b'{"id": "%b"}' % name.encode() for name in names))


class FakeEngines:
    """Engines by endpoint name, each a table of answers by path; an engine that is missing refuses connections."""

    def __init__(self, **engines: dict[str, Answer]) -> None:
        self.engines = engines
        self.asked: Counter[tuple[str, str]] = Counter()

    async def fetch(self, endpoint: Endpoint, path: str, timeout: float, /) -> Page:
        self.asked[endpoint.name, path] += 1
        engine = self.engines.get(endpoint.name)
        if engine is None:
            raise REFUSED
        answer = engine.get(path)
        if answer is HANGS:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, LlmgateError):
            raise answer
        return answer or page(status=404)
