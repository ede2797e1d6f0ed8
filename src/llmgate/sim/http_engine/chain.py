"""Chain ids of blocks of tokens: equal ids mean equal blocks with equal beginnings, as vLLM's block hashes do."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from llmgate.sim.http_engine.tokenizer import TokenIds

ROOT = 0


def root(*isolating: str | None) -> int:
    """Where the chain of a request begins: prompts share blocks only under the same LoRA adapter and cache salt."""
    given = [part for part in isolating if part]
    return xxh3_64_intdigest("\0".join(given).encode()) if given else ROOT


def chain_ids(ids: TokenIds, block_tokens: int, start: int = ROOT) -> list[int]:
    """One unsigned 64-bit id for each whole block: XXH3-64 of its token ids, seeded with the id before it."""
    size = block_tokens * ids.itemsize
    data = memoryview(ids.tobytes())
    key = start
    return [key := xxh3_64_intdigest(data[at : at + size], key) for at in range(0, len(data) - size + 1, size)]
