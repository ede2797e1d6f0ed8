"""Blocks of prompts and who holds them: what the peers' indices have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS, block_end


def block_bytes(position: int) -> int:
    """Bytes of prompt that the key at `position` of a chain stands for."""
    return FINE_BLOCK if position < FINE_BLOCKS else COARSE_BLOCK


def within(keys: Sequence[int], size: int) -> Sequence[int]:
    """The keys of the blocks that lie in the first `size` bytes."""
    if block_end(len(keys)) <= size:
        return keys
    fine = min(size // FINE_BLOCK, FINE_BLOCKS)
    return keys[: fine + max(size - FINE_BLOCK * FINE_BLOCKS, 0) // COARSE_BLOCK]


class Names:
    """A small number for each endpoint name, for ever: peers know engines by their address."""

    __slots__ = ("_names", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def mask(self, names: Iterable[str]) -> int:
        mask = 0
        for name in names:
            mask |= 1 << self.number(name)
        return mask

    def name(self, number: int) -> str:
        return self._names[number]

    def of(self, mask: int) -> Iterator[str]:
        """The names in a bit mask, those seen first in front."""
        while mask:
            low = mask & -mask
            yield self._names[low.bit_length() - 1]
            mask ^= low


class Recent:
    """What one endpoint was sent, in bytes of prompt, least recently used first."""

    __slots__ = ("_sizes", "size")

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def use(self, key: int, size: int) -> None:
        """`key`, a block of `size` bytes, is the most recent now."""
        if self._sizes.pop(key, None) is None:
            self.size += size
        self._sizes[key] = size

    def drop_to(self, limit: float) -> Iterator[int]:
        """Keys that go, the oldest first, until no more than `limit` bytes are left."""
        while self.size > limit:
            key = next(iter(self._sizes))
            self.size -= self._sizes.pop(key)
            yield key
