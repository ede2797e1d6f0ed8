"""Which blocks of tokens the engines' KV caches hold, by what the engines themselves tell of them.

An engine names its blocks by hashes of its own. Chain keys of ours (wire/token_keys.py) are the same for every engine
and for a request's own tokens, so each source of events keeps engine hash → own key, and all of them together own key →
bit mask of the sources that hold it. A source is one cache: an engine, or one data-parallel rank of it. A request goes
to one rank, so an endpoint holds as many leading blocks of a prompt as that rank of it which holds the most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat

from llmgate.core.prefix import Holders

CHECKS = 6
"""Positions of a match that are looked at besides those that halving looks at anyway."""

MANY_LEVELS = 8
"""Where more endpoints than this each hold another part of a prompt, every block is looked at: halving costs more."""

TRUSTED_REMOVALS = 64
"""So many known blocks in a row must go until a source that was joined late counts as wholly known. Engines drop what
was used longest ago first, and that is what was there before."""

SWEEP = 64
"""So many blocks of a cache that is gone are dropped with each event, besides as many as it tells of."""


class Source:
    """One cache, as far as it was told. Only BlockIndex writes it; what comes for a closed source has no effect.

    `block_tokens` is 0 until the first block is told. `complete` says that nothing is in the cache that was not told:
    without it the index may know too little, never too much.
    """

    __slots__ = ("_known_removals", "bit", "block_tokens", "complete", "keys", "live", "slot")

    def __init__(self, slot: int, bit: int) -> None:
        self.slot = slot  # of the endpoint
        self.bit = bit  # its own, in masks; 0 when it is closed
        self.block_tokens = 0
        self.complete = False
        self.live = False
        self.keys: dict[int, int] = {}  # by the engine's hash
        self._known_removals = 0

    def removed(self, known: int, unknown: int) -> bool:
        """Whether it is complete now and was not before."""
        self._known_removals = 0 if unknown else self._known_removals + known
        became = not self.complete and self._known_removals >= TRUSTED_REMOVALS
        self.complete |= became
        return became

    def begin(self, bit: int, *, complete: bool) -> None:
        self.bit = bit
        self.keys = {}
        self.complete = complete
        self._known_removals = 0


class BlockIndex:
    """`counts` are of events and the like, by endpoint slot, for metrics; whoever feeds the index keeps them.
    `adapters` are public names of models that are known to be LoRA adapters: chains of theirs are seeded with it.
    """

    def __init__(self) -> None:
        self.adapters: set[str] = set()
        self.counts: dict[int, Counter[str]] = {}
        self.lags: dict[int, float] = {}  # seconds from an event to its being known, by endpoint slot
        self._masks: dict[int, int] = {}
        self._sources: dict[int, Source] = {}  # by bit
        self._gone: list[tuple[int, dict[int, int]]] = []  # bits whose blocks are still being dropped
        self._valid = 0  # mask of the sources' bits
        self._slots: dict[int, list[Source]] = {}
        self._slot_of: list[int] = []  # by the position of a source's bit
        self._sizes: dict[int, int] | None = None  # what follows from the sources, once somebody has asked
        self._told: dict[int, dict[int, bool]] = {}

    def __len__(self) -> int:
        """Different blocks held anywhere, with those still to be dropped."""
        return len(self._masks)

    # Sources

    def open(self, slot: int) -> Source:
        """A cache of the endpoint in `slot`, of which nothing is known yet."""
        source = Source(slot, self._free_bit())
        self._sources[source.bit] = source
        self._changed()
        return source

    def close(self, source: Source) -> None:
        """Nobody tells of it any more."""
        if source.bit:
            self._retire(source)
            source.begin(0, complete=False)
            source.live = False
            self._changed()

    def forget(self, slot: int) -> None:
        """An endpoint has gone."""
        for source in self.sources(slot):
            self.close(source)
        self.counts.pop(slot, None)
        self.lags.pop(slot, None)

    def sources(self, slot: int) -> list[Source]:
        return list(self._slots.get(slot, ()))

    def count(self, slot: int, what: str, number: int = 1) -> None:
        self.counts.setdefault(slot, Counter())[what] += number

    def set_live(self, source: Source, live: bool) -> None:
        """Whether its events arrive, without a gap. While they do not, its endpoint is not known by them."""
        if source.bit and source.live is not live:
            source.live = live
            self._changed()

    def set_block_tokens(self, source: Source, tokens: int) -> None:
        if source.bit and source.block_tokens != tokens:
            source.block_tokens = tokens
            self._changed()

    def live(self, slot: int) -> int:
        """Tokens of the blocks of the endpoint in `slot`; 0 unless all its sources are live and of one size."""
        return self.live_slots.get(slot, 0)

    @property
    def live_slots(self) -> dict[int, int]:
        """Block size in tokens by the slots of the endpoints that are `live`. Not to be changed."""
        if self._sizes is None:
            self._sizes = {}
            for slot, sources in self._slots.items():
                size, *others = {source.block_tokens if source.live else 0 for source in sources}
                if size and not others:
                    self._sizes[slot] = size
        return self._sizes

    def told(self, block_tokens: int) -> Mapping[int, bool]:
        """The endpoints that are live, with blocks of this size: by slot, whether what is known is all they hold."""
        told = self._told.get(block_tokens)
        if told is None:
            told = {slot: self.complete(slot) for slot, size in self.live_slots.items() if size == block_tokens}
            if told:  # sizes come from engines: there are few
                self._told[block_tokens] = told
        return told

    def complete(self, slot: int) -> bool:
        """Whether what is known of a live endpoint is all that it holds."""
        return all(source.complete for source in self._slots[slot])

    # Events

    def store(self, source: Source, hashes: Sequence[int], keys: Sequence[int]) -> None:
        """Blocks are in the cache: the engine's hashes and our chain keys, aligned."""
        bit = source.bit
        if not bit:
            return
        masks, own = self._masks, source.keys
        for block, key in zip(hashes, keys, strict=True):
            before = own.get(block)
            if before is not None and before != key:
                self._drop((before,), bit)  # one hash for two blocks: an engine that started anew, unnoticed
            own[block] = key
            masks[key] = masks.get(key, 0) | bit
        if self._gone:
            self.sweep(len(keys) + SWEEP)

    def remove(self, source: Source, hashes: Iterable[int]) -> int:
        """Blocks are gone from the cache. Returns how many of them were not known."""
        own = source.keys
        found = [own.pop(block, None) for block in hashes]
        known = [key for key in found if key is not None]
        self._drop(known, source.bit)
        unknown = len(found) - len(known)
        if source.removed(len(known), unknown):
            self._changed()
        if self._gone:
            self.sweep(len(found) + SWEEP)
        return unknown

    def clear(self, source: Source, *, complete: bool) -> None:
        """Nothing that was told counts any more. `complete`: because the cache is empty, not because events are lost.

        The blocks are dropped later, a few with each event (or `sweep`): a cache may hold hundreds of thousands.
        """
        if source.bit:
            self._retire(source)
            source.begin(self._free_bit(), complete=complete)
            self._sources[source.bit] = source
            self._changed()

    def sweep(self, blocks: int) -> None:
        """Drop so many blocks of caches that are gone."""
        while self._gone and blocks > 0:
            bit, keys = self._gone[-1]
            some = [keys.popitem()[1] for _ in range(min(blocks, len(keys)))]
            self._drop(some, bit)
            blocks -= len(some)
            if not keys:
                self._gone.pop()

    # Requests

    def matched(self, keys: Sequence[int]) -> dict[int, int]:
        """How many of the leading blocks `keys` each endpoint holds, by slot; those that hold none are left out."""
        matches: dict[int, int] = {}
        slots, deeper = self._slot_of, 0
        for blocks, mask in reversed(self.holders(keys)):
            left = mask ^ deeper  # whose longest match this is: those of deeper levels are in this mask, too
            deeper = mask
            while left:
                top = left.bit_length() - 1
                left ^= 1 << top
                matches.setdefault(slots[top], blocks)
        return matches

    def holders(self, keys: Sequence[int]) -> Holders:
        """(blocks, mask of the sources that hold so many leading ones), ever deeper and fewer.

        Engines free the end of a chain before its beginning, so masks lose bits along a chain and where they do is
        found by halving. Where an engine did not keep to that there is a hole; CHECKS more positions are looked at, and
        if one of them tells of a hole, every block is. A hole that they miss is counted as held.
        """
        levels = self._halved(keys)
        if not levels:
            return levels
        get = self._masks.get
        start, step = 0, levels[-1][0] // CHECKS + 1
        for blocks, mask in levels:
            for key in keys[start + step // 2 : blocks : step]:
                if get(key, 0) & mask != mask:
                    return self._one_by_one(keys)
            start = blocks
        return levels

    def _halved(self, keys: Sequence[int]) -> Holders:
        get = self._masks.get
        levels: Holders = []
        depth, end, valid = 0, len(keys), self._valid
        while depth < end:
            mask = get(keys[depth], 0) & valid
            if not mask:
                break
            low, high = depth, end  # the last block known to be held by all of them, and the first known not to be
            middle = end - 1
            while high - low > 1:
                if get(keys[middle], 0) & mask == mask:
                    low = middle
                else:
                    high = middle
                middle = (low + high) // 2
            depth, valid = high, mask
            levels.append((depth, mask))
            if len(levels) > MANY_LEVELS:
                return self._one_by_one(keys)
        return levels

    def _one_by_one(self, keys: Sequence[int]) -> Holders:
        levels: Holders = []
        depth, before = 0, self._valid
        for held, run in groupby(map(self._masks.get, keys, repeat(0))):
            mask = held & before
            if mask != before and depth:
                levels.append((depth, before))
            if not mask:
                return levels
            before = mask
            depth += len(list(run))
        if depth:
            levels.append((depth, before))
        return levels

    # -----------------------------------------------------------------------------------------------------------------

    def _drop(self, keys: Iterable[int], bit: int) -> None:
        masks = self._masks
        for key in keys:
            mask = masks.get(key, 0)
            if left := mask & ~bit:
                masks[key] = left
            elif mask:
                del masks[key]

    def _retire(self, source: Source) -> None:
        del self._sources[source.bit]
        if source.keys:
            self._gone.append((source.bit, source.keys))

    def _free_bit(self) -> int:
        taken = sum(self._sources) | sum(bit for bit, _ in self._gone)  # all different powers of two
        return ~taken & (taken + 1)

    def _changed(self) -> None:
        self._valid = sum(self._sources)
        self._sizes = None
        self._told.clear()
        self._slots = {}
        for source in self._sources.values():
            self._slots.setdefault(source.slot, []).append(source)
        self._slot_of = [0] * self._valid.bit_length()
        for bit, source in self._sources.items():
            self._slot_of[bit.bit_length() - 1] = source.slot
