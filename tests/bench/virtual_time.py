"""A clock that jumps to the next time that anybody waits for, once nobody can go on without it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from itertools import count
from typing import Any

TURNS = 30  # of the event loop, after which everybody who can go on has


class VirtualTime:
    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def __call__(self) -> float:
        return self.now

    async def wait(self, until: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (until, next(self._numbers), future))
        await future

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Until `work` is done; AssertionError if it waits for something that no time brings."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if task.done():
                break
            assert self._waiting, "it waits for nothing that time brings"
            at, _, future = heapq.heappop(self._waiting)
            self.now = max(self.now, at)
            future.set_result(None)
        await task
