"""The radix tree of prompt texts that smg and vllm-router share: who was sent which beginning first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.peers.blocks import Names, Recent, block_bytes
from llmgate.core.prefix import block_end

LETTER_BITS = 4  # of a letter of text: Shannon's 4.1 bits for the first letter alone (Bell Syst. Tech. J. 30, 1951)
LETTERS = 4  # after a fork that are told apart
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)


class PromptTree:
    """For a prompt: how much of it was sent before, and to whom first.

    In the original every node is a piece of text with the set of workers that were sent it, and remembers the one that
    made it. The deepest node that a prompt reaches, even in part, says where it goes. Two texts that part within a node
    split it; so after a prompt that all share, the next letter leads into the child of whoever first sent one with that
    letter. A chain key tells only whether a whole block is the same: what letters follow a fork is drawn from the next
    key instead, LETTER_BITS for each, which spreads them as letters of unrelated texts are.
    """

    __slots__ = ("_forks", "_held", "_makers", "_names", "_recent")

    def __init__(self) -> None:
        self._names = Names()
        self._makers: dict[int, int] = {}  # key → who was sent that block first
        self._held: dict[int, int] = {}  # key → mask of those who were sent it and keep it
        self._forks: dict[tuple[int, int, int], int] = {}  # (key before the fork, letters, how many) → who was first
        self._recent: dict[int, Recent] = {}

    def __len__(self) -> int:
        return len(self._held)

    def match(self, keys: Sequence[int]) -> tuple[int, str | None]:
        """Bytes of the prompt that are in the tree, and whose they are."""
        depth = self._depth(keys)
        if not depth:
            return 0, None
        last = keys[depth - 1]
        holders = self._held[last]
        owner = self._makers[last]
        if depth < len(keys):
            for fork in reversed(list(_forks(last, keys[depth]))):
                first = self._forks.get(fork)
                if first is not None and holders >> first & 1:
                    owner = first
                    break
        if not holders >> owner & 1:  # its maker has dropped it: any other holder, and that for good
            owner = self._makers[last] = (holders & -holders).bit_length() - 1
        return block_end(depth), self._names.name(owner)

    def insert(self, keys: Sequence[int], name: str) -> None:
        """A prompt is sent to `name`."""
        if not keys:
            return
        number = self._names.number(name)
        bit = 1 << number
        depth = self._depth(keys)
        if 0 < depth < len(keys):
            for fork in _forks(keys[depth - 1], keys[depth]):
                self._forks.setdefault(fork, number)
        held = self._held
        for key in keys:
            held[key] = held.get(key, 0) | bit
        for key in keys[depth:]:
            self._makers[key] = number
        recent = self._recent.setdefault(number, Recent())
        for position in range(len(keys) - 1, -1, -1):  # the end goes before what it continues
            recent.use(keys[position], block_bytes(position))

    def evict(self, limit: int) -> None:
        """Leave no worker more than `limit` bytes of text, the least recently used go first."""
        for number, recent in self._recent.items():
            for key in recent.drop_to(limit):
                self._drop(key, 1 << number)

    def remove(self, name: str) -> None:
        number = self._names.number(name)
        for key in self._recent.pop(number, Recent()):
            self._drop(key, 1 << number)

    def _drop(self, key: int, bit: int) -> None:
        left = self._held[key] & ~bit
        if left:
            self._held[key] = left
        else:
            del self._held[key], self._makers[key]

    def _depth(self, keys: Sequence[int]) -> int:
        held = self._held
        for depth, key in enumerate(keys):
            if key not in held:
                return depth
        return len(keys)


def letters(key: int) -> int:
    """The letters that the block with this key begins with, the first in the lowest bits."""
    return (key * _SPREAD & (1 << 64) - 1) >> 64 - LETTER_BITS * LETTERS


def _forks(before: int, after: int) -> Iterator[tuple[int, int, int]]:
    text = letters(after)
    for count in range(1, LETTERS + 1):
        yield before, text & (1 << LETTER_BITS * count) - 1, count
