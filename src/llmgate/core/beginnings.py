"""Counting the classes of a long prompt once, and not again with each request that begins with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import add, mul

from llmgate.core.estimate import ByteClasses, byte_classes
from llmgate.core.prefix import block_end

MINOR = 8
"""A rest of less than this fraction is taken to be like what precedes it."""


class KnownBeginnings:
    """Byte classes of beginnings that prompts share (system prompts, conversations so far): of a prompt that begins
    like earlier ones only the rest is counted, if it is not too short to matter. That is cheaper than a sample of the
    whole, and more exact.

    Bounded; the oldest go first, and one that is still in use then is counted once more.
    """

    __slots__ = ("_capacity", "_known")

    def __init__(self, capacity: int = 16_384) -> None:
        self._capacity = capacity
        self._known: dict[int, ByteClasses] = {}  # by the chain key of the beginning's last block

    def __len__(self) -> int:
        return len(self._known)

    def classify(self, prompt: bytes, keys: Sequence[int], shared: int) -> ByteClasses:
        """Classes of `prompt`. `keys` are the chain keys of its blocks; the first `shared` of them were seen before."""
        found, depth = None, shared
        while depth and (found := self._known.get(keys[depth - 1])) is None:
            depth -= 1
        end = block_end(shared)
        if depth < shared:
            found = self._extended(found, prompt, block_end(depth), end)
            if found.token_ids:
                return byte_classes(prompt)
            if len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            self._known[keys[shared - 1]] = found
        if found is not None and (len(prompt) - end) * MINOR < end - found.opaque:
            # as `_make` does it, less a call in Python
            return tuple.__new__(ByteClasses, map(mul, found, repeat(len(prompt) / end)))
        return self._extended(found, prompt, end, len(prompt))

    def _extended(self, found: ByteClasses | None, prompt: bytes, start: int, end: int) -> ByteClasses:
        if found is None:
            return byte_classes(prompt[:end])
        if start == end:
            return found
        return tuple.__new__(ByteClasses, map(add, found, byte_classes(prompt[start:end], within=prompt)))
