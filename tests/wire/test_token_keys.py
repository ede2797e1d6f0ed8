"""Rules of wire/token_keys.py."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from llmgate.wire.token_keys import block_keys, token_seed

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=70)
BLOCK = st.integers(1, 20)
SEED = st.integers(0, 2**64 - 1)


def test_a_key_is_the_hash_of_little_endian_ids_seeded_with_the_key_before() -> None:
    first = xxh3_64_intdigest(b"\x01\0\0\0\x00\x01\0\0", 9)
    assert block_keys([1, 256, 3, 4, 5], 2, 9) == [first, xxh3_64_intdigest(b"\x03\0\0\0\x04\0\0\0", first)]


@given(IDS, BLOCK, SEED)
def test_there_is_one_key_for_each_whole_block(ids: list[int], block: int, seed: int) -> None:
    assert len(block_keys(ids, block, seed)) == len(ids) // block


@given(IDS, BLOCK, SEED, st.integers(0, 9))
def test_a_chain_goes_on_from_its_last_key(ids: list[int], block: int, seed: int, blocks: int) -> None:
    head, tail = ids[: blocks * block], ids[blocks * block :]
    before = block_keys(head, block, seed)
    assert block_keys(ids, block, seed) == before + block_keys(tail, block, before[-1] if before else seed)


@given(IDS, BLOCK, SEED)
def test_it_does_not_matter_how_the_ids_are_held(ids: list[int], block: int, seed: int) -> None:
    keys = block_keys(ids, block, seed)
    assert keys == block_keys(tuple(ids), block, seed) == block_keys(array("I", ids), block, seed)
    assert keys == block_keys(array("Q", ids), block, seed)


def test_another_beginning_changes_all_keys_after_it() -> None:
    one, other = block_keys([1, 2, 3, 4], 2, 0), block_keys([1, 9, 3, 4], 2, 0)
    assert not set(one) & set(other)


def test_models_and_salts_share_no_keys() -> None:
    seeds = {token_seed("a"), token_seed("b"), token_seed("a", "x"), token_seed("a", "y"), token_seed("ax")}
    assert len(seeds) == 5


@pytest.mark.parametrize("strange", [-1, 2**32])
def test_what_is_no_id_is_refused(strange: int) -> None:
    with pytest.raises(OverflowError):
        block_keys([strange], 1, 0)
