"""Chain keys of a prompt's blocks of tokens: equal keys mean equal tokens from the beginning on.

The gateway makes them of a prompt's own ids and of those that engines tell of in KV events; an engine's own hashes
differ by version and configuration and are never computed anew. The blocks are the engine's: `block_tokens` each.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

TOKEN_BYTES = 4


def token_seed(model: str, salt: str = "") -> int:
    """What the first block of a chain is seeded with, so that chains of different LoRA adapters (which are models to
    clients) and cache salts never meet: engines share no cache between them. `model` is what Scheduler.chain_name
    makes of a model's name."""
    seed = xxh3_64_intdigest(model.encode())
    return xxh3_64_intdigest(salt.encode(), seed) if salt else seed


def block_keys(ids: Sequence[int], block_tokens: int, seed: int) -> list[int]:
    """Keys of all whole blocks of `ids`, which are unsigned 32-bit numbers; what is left over has none.

    Each is XXH3-64 of the block's ids as little-endian uint32, seeded with the key before it, the first with `seed`. So
    a chain goes on from where it ended: `seed` may be the last key of the blocks before. Raises OverflowError for ids
    that are none.
    """
    width = block_tokens * TOKEN_BYTES
    data = _little_endian(ids)
    key = seed
    return [key := xxh3_64_intdigest(data[at : at + width], key) for at in range(0, len(data) - width + 1, width)]


def _little_endian(ids: Sequence[int]) -> bytes:
    packed = ids if isinstance(ids, array) and ids.typecode == "I" else array("I", ids)
    if sys.byteorder == "big":
        packed = packed[:]
        packed.byteswap()
    return packed.tobytes()
