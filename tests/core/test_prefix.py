from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS, PrefixIndex, block_end


def chain(blocks: Sequence[int]) -> list[int]:
    """Chain keys of a prompt of these blocks: equal keys mean equal beginnings."""
    return [hash(tuple(blocks[: depth + 1])) for depth in range(len(blocks))]


CHAINS = st.lists(st.integers(0, 2), max_size=20).map(chain)  # of few different blocks, so that many share a beginning
SLOTS = st.integers(0, 9)


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


@given(chains=st.lists(st.tuples(CHAINS, SLOTS), max_size=12), wanted=CHAINS, gone=st.none() | SLOTS)
def test_a_match_is_the_longest_common_beginning_with_any_recorded_chain(
    chains: list[tuple[list[int], int]], wanted: list[int], gone: int | None
) -> None:
    index = PrefixIndex()
    seen: dict[int, set[int]] = {slot: set() for slot in range(10)}
    for keys, slot in chains:
        index.record(keys, slot)
        seen[slot].update(keys)
    if gone is not None:
        index.forget(gone)
        seen[gone].clear()
    assert matched(index, wanted, range(10)) == [
        next((depth for depth, key in enumerate(wanted) if key not in seen[slot]), len(wanted)) for slot in range(10)
    ]
    masks = [mask for _, mask in index.holders(wanted)]
    assert all(mask & before == mask != before for before, mask in pairwise(masks)), "ever fewer"


class BoundedIndex(RuleBasedStateMachine):
    """A small index, which forgets all the time, against what was recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(capacity=16)
        self.seen: set[tuple[int, int]] = set()  # (slot, key)

    @rule(keys=CHAINS, slot=SLOTS)
    def record(self, keys: list[int], slot: int) -> None:
        self.index.record(keys, slot)
        self.seen.update((slot, key) for key in keys)
        if len(keys) < 8:  # longer ones turn the generations over at once
            assert self.match(keys, slot) == len(keys)

    @rule(slot=SLOTS)
    def forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.seen = {(other, key) for other, key in self.seen if other != slot}

    @rule(keys=CHAINS, slot=SLOTS)
    def look(self, keys: list[int], slot: int) -> None:
        depth = self.match(keys, slot)
        assert all((slot, key) in self.seen for key in keys[:depth]), "it has seen what it is credited with"
        masks = [self.match(keys[: depth + 1], slot) for depth in range(len(keys))]
        assert masks == [min(depth + 1, self.match(keys, slot)) for depth in range(len(keys))], (
            "any prefix says the same"
        )

    def match(self, keys: Sequence[int], slot: int) -> int:
        return matched(self.index, keys, [slot])[0]


TestBoundedIndex = BoundedIndex.TestCase


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
