"""Which endpoint has seen which beginning of a prompt.

A prompt's raw bytes are cut into blocks at fixed positions and each block's key is a hash of the block and the key
before it, so that equal keys mean equal beginnings (wire/prefix_keys.py makes the keys). Blocks are small at the start,
where system prompts end and conversations part, and large later, where precision is worth less than time.
"""

from __future__ import annotations

from collections.abc import Sequence

FINE_BLOCK = 256  # bytes: about 64 tokens, the least that llm-d's index takes too
FINE_BLOCKS = 16
COARSE_BLOCK = 1024
FINE_BYTES = FINE_BLOCK * FINE_BLOCKS


def block_end(blocks: int) -> int:
    """Bytes covered by the first `blocks` blocks."""
    if blocks <= FINE_BLOCKS:
        return blocks * FINE_BLOCK
    return FINE_BYTES + (blocks - FINE_BLOCKS) * COARSE_BLOCK


Holders = list[tuple[int, int]]
"""(blocks, mask of the endpoint slots that saw that many), ever deeper and fewer. An endpoint is in all masks up to its
own longest match; one that saw nothing is in none."""


class PrefixIndex:
    """Chain key → bit mask of the endpoint slots that saw it, bounded.

    Least recently used keys go first, by generation: keys seen since the last turn-over are young; when half of
    `capacity` are young, the old half is dropped at once and the young become the old. That is LRU to within one
    generation, for the price of a dict access.

    Chains are recorded from their beginning, so whoever has seen a block has seen all blocks before it, and a block is
    never forgotten before those after it. Hence masks only lose bits along a chain, and where they do is found by
    halving instead of looking up each block.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, capacity: int = 262_144) -> None:
        if capacity < 2:
            raise ValueError("capacity must be at least 2 blocks")
        self._half = capacity // 2
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + sum(key not in self._young for key in self._old)

    def holders(self, keys: Sequence[int]) -> Holders:
        """Who has seen how much of the chain `keys`."""
        young, old = self._young, self._old
        levels: Holders = []
        depth, end = 0, len(keys)
        while depth < end:
            mask = young.get(keys[depth]) or old.get(keys[depth], 0)
            if not mask:
                break
            low, high = depth, end  # the last block known to have this mask, and the first known to have less
            middle = end - 1
            while high - low > 1:
                key = keys[middle]
                if (young.get(key) or old.get(key, 0)) == mask:
                    low = middle
                else:
                    high = middle
                middle = (low + high) // 2
            depth = high
            levels.append((depth, mask))
        return levels

    def record(self, keys: Sequence[int], slot: int) -> None:
        """The endpoint in `slot` is about to see these blocks."""
        bit = 1 << slot
        young, old = self._young, self._old
        low, high = -1, len(keys)  # the last block known to be young and seen by it, and the first known not to be
        while high - low > 1:
            middle = (low + high) // 2
            if young.get(keys[middle], 0) & bit:
                low = middle
            else:
                high = middle
        for key in keys[high:]:
            young[key] = (young.get(key) or old.get(key, 0)) | bit
        if len(young) >= self._half:
            self._old, self._young = young, {}

    def forget(self, slot: int) -> None:
        """An endpoint has gone, or lost its cache: drop its bit everywhere. Cost: one pass over the index."""
        keep = ~(1 << slot)
        for generation in (self._young, self._old):
            for key in [key for key, seen in generation.items() if seen & ~keep]:
                if left := generation[key] & keep:
                    generation[key] = left
                else:
                    del generation[key]
