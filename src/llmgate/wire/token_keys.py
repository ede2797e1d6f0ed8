"""Chain keys of a prompt's tokens, in the blocks of an engine's KV cache: equal keys mean equal beginnings.

The gateway makes them of a request's token ids and of those that engines tell in KV events, so that the two can be
compared whatever an engine hashes its blocks with.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import byteorder

from xxhash import xxh3_64_intdigest

BASE_SEED = 0
"""Seed of chains that belong to no LoRA adapter and have no cache salt. Models need no seeds of their own: an endpoint
has one cache, and is asked about it only by requests of the model that it serves."""

ID_BYTES = 4


def block_keys(ids: Sequence[int], block_tokens: int, seed: int) -> list[int]:
    """Keys of all whole blocks of `block_tokens` ids.

    Each is XXH3-64 of the block's ids as little-endian uint32, seeded with the key before it, the first with `seed`: a
    parent's key, or what `chain_seed` gives. OverflowError for an id that is no uint32.
    """
    packed = array("I", ids)
    if byteorder == "big":
        packed.byteswap()
    data = memoryview(packed).cast("B")
    size = block_tokens * ID_BYTES
    key = seed
    return [
        key := xxh3_64_intdigest(data[start : start + size], key) for start in range(0, len(data) - size + 1, size)
    ]


def chain_seed(adapter: str = "", salt: str = "") -> int:
    """Seed of a chain: `adapter` is the public name of a LoRA adapter, `salt` the request's `cache_salt`; empty where
    there is none."""
    seed = xxh3_64_intdigest(adapter.encode(), BASE_SEED) if adapter else BASE_SEED
    return xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass"), seed ^ 1) if salt else seed
