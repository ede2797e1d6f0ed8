"""What is to happen, in order of virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[float], None]
"""Called with the time that it is now, in seconds."""

ENGINE, OTHERWISE = 0, 1
"""At equal times engines go first: what a step has brought is seen by whatever happens when it ends."""


class Agenda:
    """A queue of actions. Those of equal time and rank happen in the order in which they were entered, so that a run
    depends on nothing but its input."""

    __slots__ = ("_entered", "_queue")

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, int, Action]] = []
        self._entered = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def enter(self, at: float, action: Action, rank: int = OTHERWISE) -> None:
        self._entered += 1
        heapq.heappush(self._queue, (at, rank, self._entered, action))

    def next(self) -> tuple[float, Action]:
        """The earliest, which is off the agenda then."""
        at, _, _, action = heapq.heappop(self._queue)
        return at, action
