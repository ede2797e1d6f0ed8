"""Which blocks of tokens endpoints are about to hold, because a request with them was sent there a moment ago.

An engine tells of a block only when it has begun to compute it, which is after the request has waited in its queue.
Until then requests with the same beginning would be spread over all endpoints, each of which would compute it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmgate.core.prefix import PrefixIndex

STEP = 8
"""Every so many blocks one is kept, so that to book a prompt of 32 KB costs a few microseconds; what is known is less
by up to STEP - 1 blocks."""

SECONDS = 10.0
"""For at least so long and at most twice as long a booking counts; then the engine has told of it, or never will."""


class RecentBookings:
    """Bounded: `capacity` kept blocks."""

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._old = PrefixIndex(capacity)
        self._young = PrefixIndex(capacity)
        self._turns = -math.inf  # when the young ones become the old

    def record(self, blocks: Sequence[int], slot: int, now: float) -> None:
        self._turn(now)
        self._young.record(blocks[STEP - 1 :: STEP], slot)

    def matched(self, blocks: Sequence[int], now: float) -> dict[int, int]:
        """How many of the leading `blocks` each endpoint is about to hold, by slot; the others are left out."""
        self._turn(now)
        kept = blocks[STEP - 1 :: STEP]
        matches: dict[int, int] = {}
        for index in (self._old, self._young):
            for steps, mask in index.holders(kept):
                while mask:
                    bit = mask & -mask
                    mask ^= bit
                    slot = bit.bit_length() - 1
                    matches[slot] = max(matches.get(slot, 0), steps * STEP)
        return matches

    def forget(self, slot: int) -> None:
        self._old.forget(slot)
        self._young.forget(slot)

    def _turn(self, now: float) -> None:
        if now < self._turns:
            return
        self._old = self._young if now < self._turns + SECONDS else PrefixIndex(self._capacity)
        self._young = PrefixIndex(self._capacity)
        self._turns = now + SECONDS
