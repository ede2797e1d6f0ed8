"""The KV cache of an engine: blocks held by running requests, and blocks that are kept after them for their contents.

As in vLLM V1 (vllm/v1/core/block_pool.py) a block that nobody holds any more stays where it is and can be found by its
chain id until its memory is needed; the one that was let go longest ago is dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice


class BlockPool:
    """`total` blocks of memory. A cached entry, found by its chain id, takes as many of them as its owner says
    (`cost`): traces know blocks of 512 tokens where an engine's have 16.

    Memory is held without a name (`take`, `give`) until what it holds is whole and gets one (`store`).
    """

    __slots__ = ("_entries", "_idle", "_idle_cost", "_log", "held", "total")

    def __init__(self, total: int, *, log: bool = False) -> None:
        self.total = total
        self.held = 0  # by running requests
        self._entries: dict[int, list[int]] = {}  # chain id → [holders, cost]
        self._idle: OrderedDict[int, None] = OrderedDict()  # entries without holders, the next to be dropped first
        self._idle_cost = 0
        self._log: list[tuple[bool, list[int]]] | None = [] if log else None

    @property
    def free(self) -> int:
        """Blocks that can be had now, by dropping cached ones if need be."""
        return self.total - self.held

    def __len__(self) -> int:
        """Entries in the cache, held or not."""
        return len(self._entries)

    def match(self, ids: Sequence[int], most: int) -> int:
        """How many ids at the beginning, but `most` of them, are cached."""
        entries = self._entries
        found = 0
        for key in ids if most >= len(ids) else islice(ids, most):
            if key not in entries:
                break
            found += 1
        return found

    def idle_cost(self, ids: Iterable[int]) -> int:
        """Of `ids`, all cached: the blocks of those that nobody holds, which holding them takes from what is free."""
        entries = self._entries
        return sum(entries[key][1] for key in ids if not entries[key][0])

    def hold(self, ids: Iterable[int]) -> None:
        """One more holder of entries that are cached: they are not dropped before `drop` lets go of them."""
        for key in ids:
            entry = self._entries[key]
            if not entry[0]:
                del self._idle[key]
                self._idle_cost -= entry[1]
                self.held += entry[1]
            entry[0] += 1

    def take(self, blocks: int) -> None:
        """Nameless memory; ValueError if so much is not free."""
        if blocks > self.free:
            raise ValueError(f"{blocks} blocks wanted, {self.free} free")
        self.held += blocks
        while self.held + self._idle_cost > self.total:
            key, _ = self._idle.popitem(last=False)
            self._idle_cost -= self._entries.pop(key)[1]
            self._note(False, key)

    def drops_any(self, blocks: int, of: Collection[int]) -> bool:
        """Whether taking so many blocks drops a cached entry that is in `of`."""
        short = self.held + blocks + self._idle_cost - self.total
        for key in self._idle if of else ():
            if short <= 0:
                break
            if key in of:
                return True
            short -= self._entries[key][1]
        return False

    def give(self, blocks: int) -> None:
        """Nameless memory goes back."""
        if blocks > self.held:
            raise ValueError(f"{blocks} blocks given back, {self.held} held")
        self.held -= blocks

    def store(self, key: int, cost: int) -> bool:
        """Give nameless memory that its holder has filled a name. False if there is such an entry already: then the
        memory stays nameless, a second copy, as vLLM keeps it too."""
        if key in self._entries:
            return False
        self._entries[key] = [1, cost]
        self._note(True, key)
        return True

    def drop(self, ids: Sequence[int]) -> None:
        """One holder less of each. The end of the chain is let go first: it is worth nothing without its beginning."""
        for key in reversed(ids):
            entry = self._entries[key]
            entry[0] -= 1
            if not entry[0]:
                self._idle[key] = None
                self._idle_cost += entry[1]
                self.held -= entry[1]

    def end_run(self) -> None:
        """What is stored next does not go on from what was stored last."""
        if self._log:
            self._log.append((False, []))

    def take_log(self) -> list[tuple[bool, list[int]]]:
        """(stored, or else removed; chain ids) in order, since the last call. Ids stored together are of one chain."""
        if not self._log:
            return []
        log = [entry for entry in self._log if entry[1]]
        self._log = []
        return log

    def _note(self, stored: bool, key: int) -> None:
        if self._log is None:
            return
        if self._log and self._log[-1][0] is stored:
            self._log[-1][1].append(key)
        else:
            self._log.append((stored, [key]))
