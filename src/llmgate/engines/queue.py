"""Requests that an engine has not begun."""

from __future__ import annotations

import heapq

from llmgate.engines.sequence import Sequence, State


class WaitingQueue:
    """By arrival, or by priority and then arrival. One that was preempted comes back to its place."""

    def __init__(self, *, by_priority: bool) -> None:
        self._by_priority = by_priority
        self._entries: list[tuple[int, int, Sequence]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, sequence: Sequence) -> None:
        priority, order = sequence.key if self._by_priority else (0, sequence.order)
        heapq.heappush(self._entries, (priority, order, sequence))
        self._size += 1

    def head(self) -> Sequence:
        """The queue must not be empty."""
        while self._entries[0][2].state is not State.WAITING:
            heapq.heappop(self._entries)
        return self._entries[0][2]

    def pop(self) -> Sequence:
        sequence = self.head()
        heapq.heappop(self._entries)
        self._size -= 1
        return sequence

    def left(self) -> None:
        """One of them has ended: its state says which."""
        self._size -= 1
