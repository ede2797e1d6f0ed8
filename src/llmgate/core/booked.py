"""Which blocks of tokens endpoints are about to hold: a request with them was sent there and is yet to be computed.

An engine tells of a block only when it has begun to compute it, which is after the request has waited in its queue.
Until then requests with the same beginning would be spread over all endpoints, each of which would compute it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from llmgate.core.ledger import Charge

STEP = 8
"""Every so many blocks one is kept, so that to book a prompt of 32 KB costs a few microseconds; what is known is less
by up to STEP - 1 blocks."""

CHECKS = 8
"""Bookings that are looked at, with each call, whether they are still to be computed."""


class Bookings:
    """A booking counts until its answer has begun: then the engine has told of its blocks, and of those that it has
    dropped since."""

    def __init__(self) -> None:
        self._slots: dict[int, list[int]] = {}  # where a kept block is about to be, once for each booking
        self._open: deque[tuple[Charge, Sequence[int]]] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def record(self, blocks: Sequence[int], charge: Charge) -> None:
        self._look()
        kept = blocks[STEP - 1 :: STEP]
        if not kept:
            return
        slot = charge.endpoint.slot
        for key in kept:
            slots = self._slots.get(key)
            if slots is None:
                self._slots[key] = [slot]
            else:
                slots.append(slot)
        self._open.append((charge, kept))

    def matched(self, blocks: Sequence[int]) -> Mapping[int, int]:
        """How many of the leading `blocks` each endpoint is about to hold, by slot; the others are left out.

        Whoever is about to hold a block is about to hold those before it, so the lists get shorter along a chain, and
        where they do is found by halving.
        """
        self._look()
        get = self._slots.get
        kept = blocks[STEP - 1 :: STEP]
        matches: dict[int, int] = {}
        depth, end = 0, len(kept)
        while depth < end and (slots := get(kept[depth])):
            low, high = depth, end
            middle = end - 1
            while high - low > 1:
                if len(get(kept[middle], ())) == len(slots):
                    low = middle
                else:
                    high = middle
                middle = (low + high) // 2
            depth = high
            matches.update(dict.fromkeys(slots, depth * STEP))
        return matches

    def forget(self, slot: int) -> None:
        """An endpoint has gone."""
        gone = [entry for entry in self._open if entry[0].endpoint.slot == slot]
        self._open = deque(entry for entry in self._open if entry[0].endpoint.slot != slot)
        for _, kept in gone:
            self._drop(kept, slot)

    def _look(self) -> None:
        for _ in range(min(CHECKS, len(self._open))):
            charge, kept = entry = self._open.popleft()
            if charge.prefilling:
                self._open.append(entry)
            else:
                self._drop(kept, charge.endpoint.slot)

    def _drop(self, kept: Iterable[int], slot: int) -> None:
        for key in kept:
            slots = self._slots[key]
            if len(slots) == 1:
                del self._slots[key]
            else:
                slots.remove(slot)
