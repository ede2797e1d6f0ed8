"""Rules of wire/kv_events.py."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.types import KvEventSource
from llmgate.wire.kv_events import (
    END_OF_REPLAY,
    Cleared,
    Event,
    KvEventError,
    Passed,
    Removed,
    Stored,
    decode_batch,
    live_message,
    parse_sources,
    replay_request,
    replayed_message,
)
from tests.wire.kv_recorded import session

pack = msgspec.msgpack.Encoder().encode
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40)
    | st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "type", "block_hashes", "GPU"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=25,
)
FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "medium", "extra_keys", "group_idx")
MAPS = st.fixed_dictionaries(
    {"type": st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "New"])},
    optional={name: JUNK | st.lists(st.integers(0, 99), max_size=4) for name in FIELDS},
)


def events(*said: Any) -> list[Event]:
    return decode_batch(pack([1.5, list(said), 0])).events


def as_map(**more: Any) -> dict[str, Any]:
    said = {"block_hashes": [11, 12], "parent_block_hash": 10, "token_ids": [1, 2, 3, 4], "block_size": 2}
    return {"type": "BlockStored", **said, **more}


def test_a_map_and_an_array_of_the_same_event_are_alike() -> None:
    positional = ["BlockStored", [11, 12], 10, [1, 2, 3, 4], 2, 5, "GPU", "sql", [["sql"], ["sql"]], 0]
    named = as_map(lora_id=5, medium="GPU", lora_name="sql", extra_keys=[["sql"], ["sql"]], group_idx=0)
    stored = Stored([11, 12], 10, [1, 2, 3, 4], 2, "sql", [[], []], 0)
    assert events(positional) == events(named) == [stored]


def test_trailing_defaults_may_be_missing_and_there_may_be_more_fields() -> None:
    plain = Stored([11, 12], 10, [1, 2, 3, 4], 2)
    assert events(as_map(), ["BlockStored", [11, 12], 10, [1, 2, 3, 4], 2]) == [plain, plain]
    assert events(as_map(locality="LOCAL", session_id="s")) == [plain]
    stored = ["BlockStored", [11, 12], 10, [1, 2, 3, 4], 2, None, None, None, None, None, None, None, "new", 7]
    assert events(stored, ["BlockRemoved", [11]], ["AllBlocksCleared", 1]) == [plain, Removed([11]), Cleared()]


def test_hashes_are_unsigned_numbers_of_64_bits_whatever_they_were_sent_as() -> None:
    digest = bytes(range(32))
    shortened = int.from_bytes(digest[-8:], "big")
    assert events(["BlockRemoved", [-1, 2**64 - 1, digest]]) == [Removed([2**64 - 1, 2**64 - 1, shortened])]
    assert events(as_map(parent_block_hash=digest)) == [Stored([11, 12], shortened, [1, 2, 3, 4], 2)]


@pytest.mark.parametrize("medium", ["CPU", "STORAGE", "ELSEWHERE"])
def test_blocks_that_are_not_in_the_gpu_are_passed_over(medium: str) -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [1], "medium": medium}
    assert events(as_map(medium=medium), removed) == [Passed(), Passed()]


def test_an_event_of_a_new_kind_is_passed_over_and_a_known_one_that_is_wrong_is_not() -> None:
    assert events({"type": "BlockPinned", "what": 1}, ["BlockPinned", 1]) == [Passed(), Passed()]
    with pytest.raises(KvEventError):
        events({"type": "BlockRemoved"})


def test_what_the_engine_mixes_into_its_hashes_is_kept_without_the_adapters_name() -> None:
    said = as_map(lora_name="sql", extra_keys=[["sql", "tenant-1"], ["sql", ["picture", 3]]])
    assert events(said) == [Stored([11, 12], 10, [1, 2, 3, 4], 2, "sql", [["tenant-1"], [["picture", 3]]])]


def test_removals_that_follow_each_other_become_one() -> None:
    said = [["BlockRemoved", [1]], ["BlockRemoved", [2, 3]], ["BlockRemoved", [4], None, 1], ["AllBlocksCleared"]]
    assert events(*said) == [Removed([1, 2, 3]), Removed([4], 1), Cleared()]


def test_an_adapter_without_a_name_goes_by_its_number() -> None:
    assert events(["BlockStored", [1], None, [1, 2], 2, 7]) == [Stored([1], None, [1, 2], 2, "7")]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no batch"),
        (b"\x93\xcb\x3f", "no batch"),
        (pack({"ts": 1.0}), "no batch"),
        (pack([1.0, {}]), "no batch"),
        (pack([1.0, [[]]]), "no batch"),
        (pack([1.0, [{"block_hashes": [1]}]]), "no batch"),
        (pack([float("nan"), []]), "time"),
        (pack([1.0, [as_map(token_ids=[1, 2, 3])]]), "2 blocks of 2 tokens with 3 token ids"),
        (pack([1.0, [as_map(block_size=0)]]), "blocks of 0 tokens"),
        (pack([1.0, [as_map(token_ids=[1, 2, 3, -4])]]), "no batch"),
        (pack([1.0, [as_map(token_ids=[1, 2, 3, 2**32])]]), "no batch"),
        (b"\x91" * 100_000, "no batch"),
    ],
)
def test_what_is_no_batch_is_refused_with_the_reason(payload: bytes, why: str) -> None:
    with pytest.raises(KvEventError, match=why):
        decode_batch(payload)


@given(payload=st.binary(max_size=200) | JUNK.map(pack) | st.lists(MAPS, max_size=3).map(lambda all: pack([1.0, all])))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    with contextlib.suppress(KvEventError):
        decode_batch(payload)


def test_a_live_message_is_topic_sequence_and_payload() -> None:
    assert live_message([b"kv", (258).to_bytes(8, "big"), b"x"]) == (258, b"x")
    with pytest.raises(KvEventError, match="2 frames"):
        live_message([b"kv", b"x"])
    with pytest.raises(KvEventError, match="4 bytes"):
        live_message([b"kv", bytes(4), b"x"])


def test_a_replay_may_come_with_topics_and_without() -> None:
    sequence = (7).to_bytes(8, "big")
    assert replay_request(7) == [b"", sequence]
    assert replayed_message([b"", b"kv", sequence, b"x"]) == (7, b"x")
    assert replayed_message([b"", sequence, b"x"]) == (7, b"x")
    assert replayed_message([b"", b"", END_OF_REPLAY, b""]) is None
    assert replayed_message([b"", END_OF_REPLAY, b""]) is None
    for frames in ([], [b"", b"x"], [b"kv", sequence, b"x"]):
        with pytest.raises(KvEventError, match="frames"):
            replayed_message(frames)


def test_sources_are_those_that_publish_over_zeromq_by_rank() -> None:
    rank = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:5558", "hwm": 5}
    said = {"1": rank, "0": {**rank, "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5567", "topic": "kv"}}
    off = {"2": {**rank, "enable_kv_cache_events": False}, "3": {**rank, "publisher": "null"}}
    assert parse_sources(msgspec.json.encode({**said, **off})) == [
        KvEventSource("tcp://*:5557", "tcp://*:5567", "kv"),
        KvEventSource("tcp://*:5558"),
    ]
    assert parse_sources(b"{}") == []
    for body in (b"", b"[]", b'{"0": {}}', b"\xff", b"[" * 100_000):
        with pytest.raises(KvEventError, match="sources that are none"):
            parse_sources(body)


def test_what_vllm_really_sent_is_understood() -> None:
    recorded = session()
    assert parse_sources(recorded.sources) == [KvEventSource("tcp://*:18302", "tcp://*:18303", "kv")]
    messages = [live_message(frames) for frames in recorded.live]
    assert [message.sequence for message in messages] == list(range(8))
    assert replayed_message(recorded.replay_first) == messages[0]
    assert replayed_message(recorded.replay_end) is None
    batches = [decode_batch(message.payload) for message in messages]
    first = batches[0].events[0]
    assert isinstance(first, Stored)
    assert (first.parent, first.block_tokens, first.adapter, first.group, first.kind) == (
        None,
        32,
        None,
        0,
        "full_attention",
    )
    assert first.token_ids == recorded.steps[0].token_ids[:160]
    assert isinstance(batches[1].events[0], Stored)
    assert batches[1].events[0].keys[0] == ["tenant-1"]
    assert [type(event) for event in batches[7].events] == [Cleared, Stored]
