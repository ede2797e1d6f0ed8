"""What vLLM and SGLang tell of their KV caches: one message of their publisher, and what replay answers.

A live message is three frames: topic, sequence number (eight bytes, big-endian), and a batch in msgpack, always the
array [ts, events, data_parallel_rank]. Its events are maps with the name in `type` (vLLM 0.32) or arrays that begin
with the name (vLLM before, SGLang); trailing defaults may be missing and there may be more fields than are known here.
The fields and their order are those of vllm/distributed/kv_events.py and sglang/srt/disaggregation/kv_events.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from llmgate.core.types import KvEventSource

SEQUENCE_BYTES = 8
END_OF_REPLAY = b"\xff" * SEQUENCE_BYTES  # -1
FULL = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of KV cache whose blocks stay useful while the whole prompt before them does (vLLM's KVCacheSpecKind). What
window attention and state-space layers keep says nothing of a prefix."""

_UINT64 = 2**64 - 1


class KvEventError(ValueError):
    """Bytes that are no KV events. The text says what is wrong with them in one line."""


class Message(NamedTuple):
    sequence: int
    payload: bytes


class Stored(msgspec.Struct, frozen=True):
    """Blocks that follow each other in one chain are in the cache. Hashes are unsigned, of 64 bits.

    `keys` tells apart chains with the same tokens, one entry a block: the engine's `extra_keys` without the adapter.
    """

    hashes: list[int]
    parent: int | None  # hash of the block before the first; None: the first is a prompt's first
    token_ids: list[int]  # of all of them
    block_tokens: int
    adapter: str | None = None  # of LoRA, as the engine calls it
    keys: list[list[Any]] = []
    group: int | None = None
    kind: str | None = None


class Removed(msgspec.Struct, frozen=True):
    hashes: list[int]
    group: int | None = None


class Cleared(msgspec.Struct, frozen=True):
    """The cache is empty."""


class Passed(msgspec.Struct, frozen=True):
    """An event that tells nothing of the GPU's memory: of blocks on the host or on a disk, or of a kind not known."""


Event = Stored | Removed | Cleared | Passed


class Batch(msgspec.Struct, frozen=True):
    """`ts` is the engine's clock, Unix time in seconds."""

    ts: float
    events: list[Event]
    rank: int | None = None


_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class _BlockStored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[_TokenId]
    block_size: int
    lora_id: Any = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class _BlockRemoved(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class _AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _PositionalStored(_BlockStored, tag="BlockStored", array_like=True):
    pass


class _PositionalRemoved(_BlockRemoved, tag="BlockRemoved", array_like=True):
    pass


class _PositionalCleared(_AllBlocksCleared, tag="AllBlocksCleared", array_like=True):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


class _Publisher(msgspec.Struct):
    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""
    publisher: str = "zmq"
    enable_kv_cache_events: bool = True


class _Type(msgspec.Struct):
    type: str


class _Name(_Type, array_like=True):
    pass


_NAMES = frozenset({"BlockStored", "BlockRemoved", "AllBlocksCleared"})
_TYPE = msgspec.msgpack.Decoder(_Type)
_NAME = msgspec.msgpack.Decoder(_Name)
_BATCH = msgspec.msgpack.Decoder(_Batch)
_MAP = msgspec.msgpack.Decoder(_BlockStored | _BlockRemoved | _AllBlocksCleared)
_POSITIONAL = msgspec.msgpack.Decoder(_PositionalStored | _PositionalRemoved | _PositionalCleared)


def live_message(frames: Sequence[bytes]) -> Message:
    """Of a SUB socket. Raises KvEventError."""
    if len(frames) != 3:
        raise KvEventError(f"a message of {len(frames)} frames instead of topic, sequence and payload")
    return _message(frames[1], frames[2])


def replayed_message(frames: Sequence[bytes]) -> Message | None:
    """Of a DEALER that asked for a replay; None at its end. vLLM 0.32 sends an empty frame, topic, sequence, payload;
    those before, and SGLang, send no topic. Raises KvEventError."""
    if len(frames) not in (3, 4) or frames[0]:
        raise KvEventError(f"a replay of {len(frames)} frames instead of an empty one, topic, sequence and payload")
    sequence, payload = frames[-2:]
    return None if sequence == END_OF_REPLAY else _message(sequence, payload)


def replay_request(start: int) -> list[bytes]:
    """What asks for all batches from sequence number `start` on."""
    return [b"", start.to_bytes(SEQUENCE_BYTES, "big")]


def parse_sources(body: bytes) -> list[KvEventSource]:
    """Of vLLM's GET /kv_event_sources: the publishers by data-parallel rank, as the engine sees them. None when events
    are off. Raises KvEventError."""
    try:
        sources = msgspec.json.decode(body, type=dict[str, _Publisher])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KvEventError(f"sources that are none: {error}") from None
    return [
        KvEventSource(source.endpoint, source.replay_endpoint, source.topic)
        for _, source in sorted(sources.items())
        if source.enable_kv_cache_events and source.publisher == "zmq"
    ]


def decode_batch(payload: bytes) -> Batch:
    """Raises KvEventError, and nothing else, for whatever is no batch."""
    try:
        batch = _BATCH.decode(payload)
        events = _events(batch.events)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KvEventError(f"a payload that is no batch of KV events: {error}") from None
    if not math.isfinite(batch.ts):
        raise KvEventError("a batch whose time is no number")
    return Batch(batch.ts, events, batch.data_parallel_rank)


def _message(sequence: bytes, payload: bytes) -> Message:
    if len(sequence) != SEQUENCE_BYTES:
        raise KvEventError(f"a sequence number of {len(sequence)} bytes instead of {SEQUENCE_BYTES}")
    return Message(int.from_bytes(sequence, "big"), payload)


def _events(raws: list[msgspec.Raw]) -> list[Event]:
    """vLLM tells of each block that is removed by an event of its own: those that follow each other become one."""
    events: list[Event] = []
    for raw in raws:
        event = _event(raw)
        before = events[-1] if events else None
        if isinstance(event, Removed) and isinstance(before, Removed) and event.group == before.group:
            before.hashes.extend(event.hashes)
        else:
            events.append(event)
    return events


def _event(raw: msgspec.Raw) -> Event:
    first = memoryview(raw)[0]
    is_array = 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)
    try:
        decoded = (_POSITIONAL if is_array else _MAP).decode(raw)
    except msgspec.ValidationError:
        if (_NAME if is_array else _TYPE).decode(raw).type in _NAMES:
            raise
        return Passed()
    if isinstance(decoded, _AllBlocksCleared):
        return Cleared()
    if decoded.medium not in (None, "GPU"):
        return Passed()
    hashes = [block & _UINT64 if type(block) is int else _hash(block) for block in decoded.block_hashes]
    if isinstance(decoded, _BlockRemoved):
        return Removed(hashes, decoded.group_idx)
    return _stored(decoded, hashes)


def _stored(event: _BlockStored, hashes: list[int]) -> Stored:
    size, ids = event.block_size, event.token_ids
    if size < 1 or len(ids) != size * len(hashes):
        raise KvEventError(f"{len(hashes)} blocks of {size} tokens with {len(ids)} token ids")
    return Stored(
        hashes,
        None if event.parent_block_hash is None else _hash(event.parent_block_hash),
        ids,
        size,
        event.lora_name or (None if event.lora_id is None else str(event.lora_id)),
        _keys(event.extra_keys, event.lora_name),
        event.group_idx,
        event.kv_cache_spec_kind,
    )


def _keys(extra: list[Any] | None, adapter: str | None) -> list[list[Any]]:
    """The adapter's name comes first in each entry that has any."""
    if not extra or not any(extra):
        return []
    entries = [list(entry) if isinstance(entry, list | tuple) else [] for entry in extra]
    return [entry[1:] if adapter and entry[:1] == [adapter] else entry for entry in entries]


def _hash(block: int | bytes) -> int:
    """vLLM's own shortening of a digest: its last eight bytes. SGLang's are signed."""
    return block & _UINT64 if isinstance(block, int) else int.from_bytes(block[-8:], "big")
