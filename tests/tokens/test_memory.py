"""Rules of tokens/memory.py, and that what is remembered changes no count and no key."""

from __future__ import annotations

import json
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.tokens import Chain, TokenCounter, load_tokenizer
from llmgate.tokens.memory import ENTRY_BYTES, Piece, PieceMemory
from tests.support.ids import keys_of

CHAIN = Chain(keys_of, 16, 7)
TURNS = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}: " + "word " * turn} for turn in range(30)]


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return load_tokenizer("embedded")


def piece(tokens: int = 1, keys: int = 0) -> Piece:
    return Piece(tokens, array("Q", range(keys)), array("I"))


def test_a_beginning_is_known_up_to_the_first_piece_that_differs() -> None:
    memory = PieceMemory(10**6)
    memory.keep(memory.names([b"a", b"b", b"c"], b""), [piece(1), piece(2), piece(3)])
    assert memory.known(memory.names([b"a", b"b", b"x", b"c"], b"")) == [piece(1), piece(2)]
    assert memory.known(memory.names([b"b"], b"")) == []


def test_keys_of_another_kind_are_not_known() -> None:
    memory = PieceMemory(10**6)
    memory.keep(memory.names([b"a"], b"1"), [piece()])
    assert memory.known(memory.names([b"a"], b"2")) == []


def test_what_was_not_used_for_longest_goes_first_and_the_bytes_stay_bounded() -> None:
    memory = PieceMemory(3 * ENTRY_BYTES)
    for name in (b"a", b"b", b"c"):
        memory.keep(memory.names([name], b""), [piece()])
    memory.known(memory.names([b"a"], b""))
    memory.keep(memory.names([b"d"], b""), [piece()])
    assert [bool(memory.known(memory.names([name], b""))) for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]
    assert memory.bytes == len(memory) * ENTRY_BYTES


def test_of_one_chain_the_end_goes_before_the_beginning() -> None:
    memory = PieceMemory(2 * ENTRY_BYTES)
    names = memory.names([b"a", b"b", b"c"], b"")
    memory.keep(names, [piece(), piece(), piece()])
    assert len(memory.known(names)) == 2


def test_what_exceeds_the_room_is_not_kept_and_the_count_of_bytes_returns_to_zero() -> None:
    memory = PieceMemory(ENTRY_BYTES)
    memory.keep(memory.names([b"a"], b""), [piece(keys=10_000)])
    assert (len(memory), memory.bytes) == (0, 0)


def test_an_entry_is_not_larger_than_it_is_taken_for() -> None:
    entry = Piece(10**6, array("Q", [1]), array("I", [1]))
    held = (
        sum(map(sys.getsizeof, (entry, *entry, 2**63))) + 150
    )  # a place in an OrderedDict: key, value, hash, two links
    assert held <= ENTRY_BYTES


def test_only_the_new_turn_of_a_conversation_is_encoded(counter: TokenCounter) -> None:
    turns = [{**turn, "content": "only the new turn " + turn["content"]} for turn in TURNS]
    counter.prepare_chat(turns[:-2]).finish()
    added = sum(len(turn["content"]) for turn in turns[-3:])
    assert counter.prepare_chat(turns).unknown_bytes < added + 100


def test_another_chain_of_the_same_text_starts_anew(counter: TokenCounter) -> None:
    one = counter.prepare_chat(TURNS, chain=CHAIN).finish()
    other = counter.prepare_chat(TURNS, chain=Chain(keys_of, 16, 8)).finish()
    assert one.tokens == other.tokens
    assert not set(one.keys) & set(other.keys)
    assert counter.prepare_chat(TURNS, chain=Chain(keys_of, 32, 7)).finish().keys != one.keys


CONTENT = st.text(max_size=40) | st.sampled_from(
    ["<|im_start|>", "<|im_end|>\n<|im_start|>user\n", "  ", "a" * 300, "\n\n", "\ud800"]
)
CHAT = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENT}),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(CHAT, CHAT, st.integers(1, 20))
def test_what_is_remembered_of_a_chat_gives_the_ids_of_the_whole(
    counter: TokenCounter, one: list[dict[str, Any]], more: list[dict[str, Any]], block: int
) -> None:
    chain = Chain(keys_of, block, 3)
    counter.prepare_chat(one, chain=chain).finish()
    for chat in (one, one + more, more, one + more):
        ids = counter.chat_ids(chat)
        counted = counter.prepare_chat(chat, chain=chain).finish()
        assert counted.tokens == len(ids), json.dumps(chat)
        assert list(counted.keys) == list(keys_of(ids, block, 3))
        assert counter.prepare_chat(chat).finish().tokens == len(ids)
