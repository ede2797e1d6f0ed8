"""Messages of engines that tell of their KV caches, made for a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmgate.wire.kv_events import Message
from llmgate.wire.token_keys import block_keys, token_seed

SIZE = 16
IDS = list(range(100, 100 + 20 * SIZE))

pack = msgspec.msgpack.Encoder().encode


def keys(ids: Sequence[int] = IDS, *, name: str = "", salt: str = "", size: int = SIZE) -> list[int]:
    """What a request with these token ids asks for."""
    return block_keys(ids, size, token_seed(name, salt))


def stored(first: int, last: int, *, ids: Sequence[int] = IDS, size: int = SIZE, **more: Any) -> dict[str, Any]:
    """Blocks `first` to `last` - 1 of a prompt; the engine calls each 1000 + its number."""
    return {
        "type": "BlockStored",
        "block_hashes": [1000 + block for block in range(first, last)],
        "parent_block_hash": 999 + first if first else None,
        "token_ids": list(ids[first * size : last * size]),
        "block_size": size,
        "medium": "GPU",
        **more,
    }


def removed(*blocks: int, **more: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": [1000 + block for block in blocks], "medium": "GPU", **more}


CLEARED = {"type": "AllBlocksCleared"}


def batch(*events: Any, ts: float = 50.0) -> bytes:
    return pack([ts, list(events), 0])


def message(sequence: int, *events: Any, ts: float | None = None) -> Message:
    """Of an engine whose clock says 100 s at sequence number 0, and goes on by a second with each."""
    return Message(sequence, batch(*events, ts=100.0 + sequence if ts is None else ts))
