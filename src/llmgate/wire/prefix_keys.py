"""Chain keys of a prompt: equal keys mean equal beginnings. The blocks' geometry is core/prefix.py's."""

from __future__ import annotations

from functools import lru_cache

from xxhash import xxh3_64_intdigest

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BYTES

_FINE = [slice(start, start + FINE_BLOCK) for start in range(0, FINE_BYTES, FINE_BLOCK)]


def prefix_keys(model: str, prompt: bytes, salt: bytes = b"") -> list[int]:
    """Keys of all whole blocks of the prompt.

    Each key is XXH3-64 of its block, seeded with the key before it; the first is seeded with the model's name and the
    request's cache salt, since engines share no cache between models and salts.
    """
    key = _seed(model)
    if salt:
        key = xxh3_64_intdigest(salt, key)
    keys = [key := xxh3_64_intdigest(prompt[block], key) for block in _FINE[: len(prompt) // FINE_BLOCK]]
    if len(prompt) >= FINE_BYTES + COARSE_BLOCK:
        starts = range(FINE_BYTES, len(prompt) - COARSE_BLOCK + 1, COARSE_BLOCK)
        keys += [key := xxh3_64_intdigest(prompt[start : start + COARSE_BLOCK], key) for start in starts]
    return keys


@lru_cache(maxsize=1024)
def _seed(model: str) -> int:
    return xxh3_64_intdigest(model.encode())
