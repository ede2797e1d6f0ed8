"""Chain keys of a prompt: equal keys mean equal beginnings. The blocks' geometry is core/prefix.py's."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BYTES


def prefix_keys(model: str, prompt: bytes) -> tuple[int, ...]:
    """Keys of all whole blocks of the prompt.

    Each key is XXH3-64 of its block, seeded with the key before it; the first is seeded with the model's name, since
    engines share no cache between models.
    """
    key = xxh3_64_intdigest(model.encode())
    keys = []
    size = len(prompt)
    view = memoryview(prompt)
    for start in range(0, min(size, FINE_BYTES) - FINE_BLOCK + 1, FINE_BLOCK):
        key = xxh3_64_intdigest(view[start : start + FINE_BLOCK], key)
        keys.append(key)
    for start in range(FINE_BYTES, size - COARSE_BLOCK + 1, COARSE_BLOCK):
        key = xxh3_64_intdigest(view[start : start + COARSE_BLOCK], key)
        keys.append(key)
    return tuple(keys)
