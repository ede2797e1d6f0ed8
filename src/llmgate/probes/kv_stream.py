"""One source of KV events, in order: what each message does to the block index. No sockets and no clock in here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from llmgate.core.blocks import BlockIndex, Source
from llmgate.core.types import Endpoint
from llmgate.wire.kv_events import (
    FULL,
    Batch,
    Cleared,
    KvEventError,
    Message,
    Removed,
    Stored,
    decode_batch,
)
from llmgate.wire.token_keys import block_keys, token_seed

MIN_BLOCK_TOKENS = 8
"""Of smaller blocks (SGLang's default page is one token) a prompt has so many that to hash and to keep them costs more
than it tells: 32 KB of text would be some 8,000 blocks of one token."""

INSTEAD = "what was routed there is judged by instead"

logger = logging.getLogger("llmgate.probes")


class KvStream:
    """`can_replay`: batches that were missed can be asked for again. `wall` is the time of day, in seconds.

    What cannot be replayed is not known: the index is then cleared and fills again from what comes.
    """

    def __init__(self, index: BlockIndex, endpoint: Endpoint, wall: Callable[[], float], *, can_replay: bool) -> None:
        self.can_replay = can_replay
        self._index = index
        self._endpoint = endpoint
        self._wall = wall
        self._source: Source = index.open(endpoint.slot)
        self._last: int | None = None  # sequence number of the last batch that was dealt with
        self._last_ts = 0.0
        self._wanted = 0  # where the replay that is under way is to begin
        self._other_groups: set[int | None] = set()
        self._warned: set[str] = set()

    @property
    def source(self) -> Source:
        return self._source

    def close(self) -> None:
        self._index.close(self._source)

    # Messages ---------------------------------------------------------------------------------------------------------

    def take(self, message: Message) -> int | None:
        """A live message. Returns the sequence number from which on batches are to be replayed, this one with them;
        None when it has been dealt with."""
        batch = self._decode(message)
        if batch is None:
            return None
        last, sequence = self._last, message.sequence
        if last is None or sequence == last + 1:
            if last is None:
                self._start(complete=sequence == 0)
        elif sequence > last + 1:
            self._count("gap")
            if self.can_replay:
                return last + 1
            self._start(complete=False)
        elif batch.ts <= self._last_ts:
            return None  # it was replayed already
        else:
            self._count("restart")
            self._start(complete=sequence == 0)
            if self.can_replay and sequence > 0:
                self._last = None
                return 0
        self._apply(message.sequence, batch)
        self._index.lags[self._endpoint.slot] = self._wall() - batch.ts
        return None

    def replay_from(self, wanted: int) -> None:
        """A replay begins: its batches come to `replayed`, no others to `take` until it has ended."""
        self._wanted = wanted
        self._count("replay")

    def replayed(self, message: Message) -> None:
        sequence = message.sequence
        if self._last is not None and sequence <= self._last:
            return
        expected = self._wanted if self._last is None else self._last + 1
        if sequence > expected:  # older ones are kept no more
            self._start(complete=False)
        elif self._last is None:
            self._start(complete=True)
        if (batch := self._decode(message)) is not None:
            self._apply(sequence, batch)

    def replay_ended(self, *, whole: bool) -> None:
        """`whole`: it has come to its end; else it broke off, and what it did not bring is lost."""
        if not whole:
            self.lost()
        elif self._last is None and self._wanted == 0:
            self._start(complete=True)  # nothing has ever been told, so nothing is in the cache

    def lost(self) -> None:
        """Nothing that was told counts any more, and what comes next is the first that is known."""
        self._start(complete=False)
        self._index.set_live(self._source, False)
        self._last = None

    def unreadable(self, error: KvEventError) -> None:
        """A message that is none. What it would have told is not known."""
        self._count("garbage")
        self._warn(f"its KV events cannot be read ({error})")
        self.lost()

    # Events -----------------------------------------------------------------------------------------------------------

    def _start(self, *, complete: bool) -> None:
        self._index.clear(self._source, complete=complete)
        self._index.set_live(self._source, True)

    def _decode(self, message: Message) -> Batch | None:
        try:
            return decode_batch(message.payload)
        except KvEventError as error:
            self.unreadable(error)
            return None

    def _apply(self, sequence: int, batch: Batch) -> None:
        self._last, self._last_ts = sequence, batch.ts
        for event in batch.events:
            if isinstance(event, Stored):
                self._store(event)
            elif isinstance(event, Removed):
                self._remove(event)
            elif isinstance(event, Cleared):
                self._index.clear(self._source, complete=True)
                self._count("cleared")
            else:
                self._count("passed")

    def _remove(self, event: Removed) -> None:
        if event.group in self._other_groups:
            self._count("passed")
            return
        self._index.remove(self._source, event.hashes)
        self._count("removed", len(event.hashes))

    def _store(self, event: Stored) -> None:
        if event.kind not in FULL:
            self._other_groups.add(event.group)
            self._count("passed")
            return
        seed = self._seed(event) if self._fits(event) else None
        if seed is None:
            self._count("left_out", len(event.hashes))
            return
        foreign = next((block for block, keys in enumerate(event.keys) if block and keys), len(event.hashes))
        hashes = event.hashes[:foreign]  # a picture's place holders are no tokens of a prompt
        ids = event.token_ids[: foreign * event.block_tokens]
        self._index.store(self._source, hashes, block_keys(ids, event.block_tokens, seed))
        self._count("stored", len(hashes))

    def _fits(self, event: Stored) -> bool:
        """Whether its blocks are of the size that is known of this cache."""
        if event.block_tokens < MIN_BLOCK_TOKENS:
            self._warn(f"its KV blocks of {event.block_tokens} tokens are too small to be followed")
            return False
        if not self._source.keys:
            self._index.set_block_tokens(self._source, event.block_tokens)
        return event.block_tokens == self._source.block_tokens

    def _seed(self, event: Stored) -> int | None:
        """What the first of its blocks is hashed with; None when no request of ours could have the same."""
        chain = self._chain(event.adapter)
        if chain is None:
            return None
        first = event.keys[0] if event.keys else ()
        if event.parent is not None:
            return None if first else self._source.keys.get(event.parent)
        salt = first[0] if first else ""
        return token_seed(chain, salt) if len(first) < 2 and isinstance(salt, str) else None

    def _chain(self, adapter: str | None) -> str | None:
        """Public name of the adapter; empty for the model itself, None if it is not known."""
        if adapter is None:
            return ""
        public = next((name for name, served in self._endpoint.models.items() if served == adapter), None)
        if public is None and self._endpoint.spec.models is not None:
            self._warn(f"its KV events tell of {adapter!r:.80}, a model that the configuration does not give it")
            self._count("unknown_model")
            return None
        name = adapter if public is None else public  # learnt names are the engine's own
        self._index.adapters.add(name)
        return name

    def _count(self, kind: str, number: int = 1) -> None:
        self._index.count(self._endpoint.slot, kind, number)

    def _warn(self, what: str) -> None:
        if what not in self._warned and len(self._warned) < 8:
            self._warned.add(what)
            logger.warning("%s: %s: %s", self._endpoint.name, what, INSTEAD)
