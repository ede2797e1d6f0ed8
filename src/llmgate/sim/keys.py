"""What the gateway would know a trace's prompt by: chain keys of byte blocks, made from the trace's own block ids."""

from __future__ import annotations

from functools import lru_cache

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS, FINE_BYTES, block_end
from llmgate.workloads.types import TraceRequest

BYTES_PER_TOKEN = 4
"""Of a prompt's text: English prose and code are near it with the vocabularies of today (benchmarks/estimate)."""

_POSITION_BITS = 20  # more byte blocks than the longest prompt has


def prompt_bytes(prompt_tokens: int) -> int:
    return prompt_tokens * BYTES_PER_TOKEN


def chain_keys(request: TraceRequest) -> list[int]:
    """Keys of the prompt's whole byte blocks in the gateway's geometry (core/prefix.py), as far as its `blocks` reach.

    Key i is made of i and the id of the trace block that the byte block's last token lies in. Trace ids are chained, so
    equal keys mean equal beginnings. Where trace blocks are larger than byte blocks the gateway is shown less than it
    would see: that two prompts part within a trace block, it learns at the block's beginning.
    """
    blocks, block_tokens = request.blocks, request.block_tokens
    covered = min(request.prompt_tokens, len(blocks) * block_tokens)
    count = whole_blocks(covered * BYTES_PER_TOKEN)
    return [blocks[at] << _POSITION_BITS | i for i, at in enumerate(_positions(block_tokens, count))]


def whole_blocks(size: int) -> int:
    """Byte blocks that `size` bytes hold."""
    if size < FINE_BYTES:
        return size // FINE_BLOCK
    return FINE_BLOCKS + (size - FINE_BYTES) // COARSE_BLOCK


@lru_cache(maxsize=4096)
def _positions(block_tokens: int, count: int) -> tuple[int, ...]:
    """For each of the first `count` byte blocks, the index of the trace block that its last token lies in."""
    return tuple((block_end(i + 1) // BYTES_PER_TOKEN - 1) // block_tokens for i in range(count))
