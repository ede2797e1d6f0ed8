from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS, PrefixIndex, block_end

KEYS = st.lists(st.integers(0, 2**64 - 1), max_size=20, unique=True)


def matched(index: PrefixIndex, keys: Sequence[int], slots: Iterable[int]) -> list[int]:
    levels = index.holders(keys)
    return [max((blocks for blocks, mask in levels if mask >> slot & 1), default=0) for slot in slots]


def test_blocks_are_fine_first_and_coarse_later() -> None:
    assert block_end(0) == 0
    assert block_end(FINE_BLOCKS) - block_end(FINE_BLOCKS - 1) == FINE_BLOCK
    assert block_end(FINE_BLOCKS + 1) - block_end(FINE_BLOCKS) == COARSE_BLOCK


def test_each_endpoint_is_credited_with_its_own_longest_match() -> None:
    index = PrefixIndex()
    index.record((1, 2, 3, 4), slot=0)
    index.record((1, 2, 30), slot=1)
    index.record((9,), slot=5)
    assert matched(index, (1, 2, 3, 4, 5), [0, 1, 2, 5]) == [4, 2, 0, 0]


@given(chains=st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=8), wanted=KEYS)
def test_a_match_is_the_longest_common_beginning_with_any_recorded_chain(
    chains: list[tuple[list[int], int]], wanted: list[int]
) -> None:
    index = PrefixIndex()
    seen: dict[int, set[int]] = {slot: set() for slot in range(10)}
    for keys, slot in chains:
        index.record(keys, slot)
        seen[slot].update(keys)
    expected = []
    for slot in range(10):
        depth = 0
        while depth < len(wanted) and wanted[depth] in seen[slot]:
            depth += 1
        expected.append(depth)
    assert matched(index, wanted, range(10)) == expected


def test_the_index_is_bounded_and_drops_the_least_recently_used() -> None:
    index = PrefixIndex(capacity=100)
    for key in range(10_000):
        index.record((key,), slot=0)
        index.record((-1,), slot=3)  # used all the time
        assert len(index) <= 100
    assert matched(index, (0,), [0]) == [0]
    assert matched(index, (9_999,), [0]) == [1]
    assert matched(index, (-1,), [3]) == [1]


def test_forgetting_an_endpoint_leaves_the_others() -> None:
    index = PrefixIndex()
    index.record((1, 2), slot=0)
    index.record((1,), slot=1)
    index.forget(0)
    assert matched(index, (1, 2), [0, 1]) == [0, 1]
    assert len(index) == 1


def test_a_capacity_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        PrefixIndex(1)
