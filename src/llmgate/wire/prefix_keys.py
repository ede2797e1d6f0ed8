"""Chain keys of a prompt: equal keys mean equal beginnings. The blocks' geometry is core/prefix.py's."""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BYTES


def prefix_keys(model: str, parts: Sequence[bytes]) -> tuple[tuple[int, ...], int]:
    """Keys of all whole blocks of the joined parts, and the joined length in bytes.

    Each key is XXH3-64 of its block, seeded with the key before it; the first is seeded with the model's name, since
    engines share no cache between models.
    """
    data = b"".join(parts) if len(parts) > 1 else parts[0]
    key = xxh3_64_intdigest(model.encode())
    keys = []
    size = len(data)
    view = memoryview(data)
    for start in range(0, min(size, FINE_BYTES) - FINE_BLOCK + 1, FINE_BLOCK):
        key = xxh3_64_intdigest(view[start : start + FINE_BLOCK], key)
        keys.append(key)
    for start in range(FINE_BYTES, size - COARSE_BLOCK + 1, COARSE_BLOCK):
        key = xxh3_64_intdigest(view[start : start + COARSE_BLOCK], key)
        keys.append(key)
    return tuple(keys), size
