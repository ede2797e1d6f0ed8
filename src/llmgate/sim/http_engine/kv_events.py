"""What the prefix cache takes in and drops, as vLLM 0.32 publishes it (vllm/distributed/kv_events.py): a batch is the
array [ts, events, data_parallel_rank] in msgpack, an event a map whose `type` is its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from llmgate.engines.request import CacheEvent
from llmgate.sim.http_engine.tokenizer import TokenIds

MEDIUM = "GPU"


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True):
    """`block_hashes` are consecutive blocks of one chain, `token_ids` those of all of them."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    pass


Event = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, array_like=True):
    ts: float  # Unix time, s
    events: list[Event]
    data_parallel_rank: int | None = 0


@dataclass(frozen=True, slots=True)
class _Block:
    parent: int | None
    token_ids: bytes  # little-endian, four bytes each
    lora: tuple[int, str] | None
    salt: str | None


class BlockBook:
    """Which tokens the blocks hold that are cached, or that a request might have cached: the engine model knows only
    their chain ids. Blocks that are neither are forgotten."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._blocks: dict[int, _Block] = {}
        self._stored: set[int] = set()
        self._users: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._blocks)

    def opened(
        self, blocks: Sequence[int], ids: TokenIds, lora: tuple[int, str] | None = None, salt: str | None = None
    ) -> None:
        """A request with these chain ids, and the tokens from the first on, has come."""
        data = ids.tobytes()
        size = self._block_tokens * ids.itemsize
        parent: int | None = None
        for index, block in enumerate(blocks):
            if block not in self._blocks:
                self._blocks[block] = _Block(parent, data[index * size : (index + 1) * size], lora, salt)
            parent = block
        self._users.update(blocks)

    def closed(self, blocks: Sequence[int]) -> None:
        """It has ended; what it stored has been told of by `events`."""
        for block in blocks:
            self._users[block] -= 1
            if self._users[block] <= 0:
                del self._users[block]
                self._forget(block)

    def events(self, changes: Iterable[CacheEvent]) -> list[Event]:
        found: list[Event] = []
        for change in changes:
            found += self._stored_runs(change.stored)
            if change.removed:
                found.append(BlockRemoved(list(change.removed), MEDIUM, 0))
                for block in change.removed:
                    self._stored.discard(block)
                    self._forget(block)
        return found

    def clear(self) -> None:
        """The cache is empty."""
        stored, self._stored = self._stored, set()
        for block in stored:
            self._forget(block)

    def _forget(self, block: int) -> None:
        if block not in self._stored and block not in self._users:
            self._blocks.pop(block, None)

    def _stored_runs(self, stored: Sequence[int]) -> Iterator[BlockStored]:
        """One event for each run of blocks that follow each other in their chain."""
        run: list[int] = []
        for block in stored:
            if block not in self._blocks:  # no request of ours: nothing could be said of it
                continue
            self._stored.add(block)
            if run and self._blocks[block].parent != run[-1]:
                yield self._event(run)
                run = []
            run.append(block)
        if run:
            yield self._event(run)

    def _event(self, run: list[int]) -> BlockStored:
        first = self._blocks[run[0]]
        ids = np.frombuffer(b"".join(self._blocks[block].token_ids for block in run), np.uint32).tolist()
        lora_id, lora_name = first.lora or (None, None)
        # the salt goes into the first block of a chain only: the hashes of all others follow from it
        keys = [
            tuple(key for key in (lora_name, None if self._blocks[b].parent else self._blocks[b].salt) if key) or None
            for b in run
        ]
        return BlockStored(
            list(run),
            first.parent,
            ids,
            self._block_tokens,
            lora_id,
            MEDIUM,
            lora_name,
            extra_keys=keys,
            group_idx=0,
            kv_cache_spec_kind="full_attention",
        )
