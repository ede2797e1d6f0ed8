"""Who is sent when. Two loads: an open loop sends on time whatever the server does, a closed loop keeps N in flight.

The clock and the sleep are arguments, so that tests decide how time passes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from llmgate.workloads.types import TraceRequest

Clock = Callable[[], float]
Send = Callable[[int, float], Awaitable[None]]
"""Send the request of that index, meant for that time (s); returns when its answer has ended, well or not."""


class Wait(Protocol):
    def __call__(self, until: float, /) -> Awaitable[None]:
        """Return when the clock has reached that time, as exactly as may be."""
        ...


class Load:
    """One run. What waits for another request (`after`) is sent `think_s` after that one's end, in either loop."""

    def __init__(self, requests: Sequence[TraceRequest], send: Send, clock: Clock, wait: Wait) -> None:
        self._requests = requests
        self._send = send
        self._clock = clock
        self._wait = wait
        self._followers: dict[int, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            if request.after is not None:
                self._followers[request.after].append(index)

    async def open_loop(self, times: Sequence[float | None]) -> None:
        """Send each request at its time (ascending; None: it waits for another)."""
        async with asyncio.TaskGroup() as group:

            async def run(index: int, at: float) -> None:
                await self._send(index, at)
                for follower in self._followers.pop(index, ()):
                    group.create_task(think(follower))

            async def think(index: int) -> None:
                at = self._clock() + self._requests[index].think_s
                await self._wait(at)
                await run(index, at)

            for index, at in enumerate(times):
                if at is not None:
                    await self._wait(at)
                    group.create_task(run(index, at))

    async def closed_loop(self, concurrency: int) -> None:
        """Keep `concurrency` requests in flight while there are any that may be sent. Thinking takes no place; who has
        thought goes before who has not begun."""
        ready = deque(index for index, request in enumerate(self._requests) if request.after is None)
        places = asyncio.Semaphore(concurrency)
        returned: deque[int] = deque()
        left = len(self._requests)
        changed = asyncio.Event()

        async with asyncio.TaskGroup() as group:

            async def run(index: int) -> None:
                try:
                    await self._send(index, self._clock())
                finally:
                    places.release()
                for follower in self._followers.pop(index, ()):
                    group.create_task(think(follower))

            async def think(index: int) -> None:
                await self._wait(self._clock() + self._requests[index].think_s)
                returned.append(index)
                changed.set()

            while left:
                await places.acquire()
                while not (returned or ready):
                    changed.clear()
                    await changed.wait()
                index = returned.popleft() if returned else ready.popleft()
                left -= 1
                group.create_task(run(index))
