"""What an engine's prefix cache still holds of what was sent to it: aged as the engine ages it."""

from __future__ import annotations

from collections.abc import Sequence

from llmgate.core.prefix import block_end

FEWEST_TOKENS = 16
"""Of a chain key at least (64 are usual): text that has fewer must not fill the memory."""

FEWEST_KEYS = 1024
"""Below twice as many, nothing is ever cleaned up."""


class Residency:
    """Of one engine whose cache evicts what was used least recently, as vLLM's and SGLang's do.

    Each prompt that is sent there is a use: what it shares with earlier ones moves from their uses to its own, and when
    all uses together are larger than the cache, the oldest are gone. A chain key belongs to the last use of its block.
    A chain is used from its beginning, so its keys belong to ever older uses, in few runs: where these end is found by
    halving, and a prompt of hundreds of blocks costs little more than one of ten.
    """

    __slots__ = ("_clean_at", "_cut", "_gone", "_last", "_tokens", "_total", "_use", "capacity_tokens")

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self._use: dict[int, int] = {}  # chain key → number of the last use
        self._tokens: dict[int, float] = {}  # number of a use → tokens that belong to it, the oldest first
        self._total = 0.0  # of `_tokens`
        self._last = 0  # number of the latest use
        self._gone = 0  # uses up to this number are evicted
        self._clean_at = 2 * FEWEST_KEYS  # chain keys, with those that are evicted
        self._cut = 0.0  # tokens of the oldest that is left that are evicted: the end of its chain goes first

    def __len__(self) -> int:
        return len(self._use)

    @property
    def uses(self) -> int:
        """Of which something may be left."""
        return len(self._tokens)

    def use(self, keys: Sequence[int], tokens: float, tokens_per_byte: float) -> None:
        """A prompt with the chain `keys` is there, with its answer so far `tokens` long."""
        owners = self._tokens
        start, end = 0, len(keys)
        while start < end and (number := self._use.get(keys[start], 0)) > self._gone:
            stop = self._run_end(keys, start, number)
            moved = min((block_end(stop) - block_end(start)) * tokens_per_byte, owners.get(number, 0.0))
            if moved:
                owners[number] -= moved
                self._total -= moved
                if owners[number] < 1.0:
                    self._total -= owners.pop(number)
            start = stop
        self._last += 1
        self._use.update(dict.fromkeys(keys, self._last))
        tokens = max(tokens, FEWEST_TOKENS * len(keys))
        owners[self._last] = tokens
        self._total += tokens
        if self._total > self.capacity_tokens:
            self._evict(self._total - self.capacity_tokens)

    def held(self, keys: Sequence[int], blocks: int, tokens: int) -> int:
        """Of the first `blocks` blocks of a chain, which have so many `tokens`: those that are still there."""
        use, gone = self._use, self._gone
        if use.get(keys[blocks - 1], 0) > gone + 1:
            return tokens
        low, high = -1, blocks
        middle = high - 1  # mostly all or nothing
        while high - low > 1:
            if use.get(keys[middle], 0) > gone:
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        left: float = tokens * block_end(high) / block_end(blocks)
        if self._cut and high and use[keys[high - 1]] == gone + 1:
            left -= self._cut
        return int(left) if left > 0.0 else 0

    def _run_end(self, keys: Sequence[int], start: int, number: int) -> int:
        """The index after the last key of the run from `start` that belongs to the same use."""
        use = self._use
        low, high = start, len(keys)
        middle = high - 1
        while high - low > 1:
            if use.get(keys[middle], 0) == number:
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return high

    def _evict(self, excess: float) -> None:
        owners = self._tokens
        while excess > 0.0 and owners:
            number = next(iter(owners))
            there = owners[number]
            if there > excess:
                owners[number] -= excess
                self._total -= excess
                self._cut = excess + (self._cut if number == self._gone + 1 else 0.0)
                self._gone = number - 1
                break
            del owners[number]
            self._total -= there
            excess -= there
            self._gone, self._cut = number, 0.0
        if len(self._use) > self._clean_at:
            self._use = {key: number for key, number in self._use.items() if number > self._gone}
            self._clean_at = 2 * max(len(self._use), FEWEST_KEYS)
