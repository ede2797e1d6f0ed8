"""Chain keys for tests below the floor of wire/: the same rule with another hash."""

from __future__ import annotations

from collections.abc import Sequence


def keys_of(ids: Sequence[int], block_tokens: int, seed: int) -> list[int]:
    key = seed
    whole = range(0, len(ids) - block_tokens + 1, block_tokens)
    return [key := hash((key, *ids[at : at + block_tokens])) % 2**64 for at in whole]
