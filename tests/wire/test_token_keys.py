from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from llmgate.wire.token_keys import BASE_SEED, block_keys, chain_seed

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=70)


def test_a_key_is_xxh3_of_the_blocks_ids_seeded_with_the_key_before() -> None:
    first = xxh3_64_intdigest(bytes([1, 0, 0, 0, 2, 1, 0, 0]), 7)
    assert block_keys([1, 258, 3, 4, 5], 2, 7) == [
        first,
        xxh3_64_intdigest(bytes([3, 0, 0, 0, 4, 0, 0, 0]), first),
    ]


@given(ids=IDS, size=st.integers(1, 17), cut=st.integers(0, 5))
def test_a_chain_goes_on_from_its_parents_key(ids: list[int], size: int, cut: int) -> None:
    whole = block_keys(ids, size, BASE_SEED)
    cut = min(cut, len(whole))
    assert len(whole) == len(ids) // size
    assert whole[cut:] == block_keys(ids[cut * size :], size, whole[cut - 1] if cut else BASE_SEED)


@given(ids=IDS)
def test_lists_and_arrays_of_ids_are_alike(ids: list[int]) -> None:
    assert block_keys(array("I", ids), 4, 1) == block_keys(tuple(ids), 4, 1)


def test_ids_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(OverflowError):
        block_keys([-1] * 16, 16, 0)


def test_adapters_and_salts_tell_chains_apart() -> None:
    seeds = [chain_seed(), chain_seed("sql"), chain_seed(salt="sql"), chain_seed("sql", "a"), chain_seed("sql", "b")]
    assert seeds[0] == BASE_SEED
    assert len(set(seeds)) == len(seeds)
