"""Rules of core/blocks.py."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from llmgate.core.blocks import CHECKS, TRUSTED_REMOVALS, BlockIndex, Source


def chain(blocks: Sequence[int]) -> list[int]:
    """Chain keys of these blocks: equal keys mean equal beginnings."""
    return [hash(("key", *blocks[: depth + 1])) for depth in range(len(blocks))]


def hashes(blocks: Sequence[int], engine: int) -> list[int]:
    """What an engine calls them."""
    return [hash(("engine", engine, *blocks[: depth + 1])) for depth in range(len(blocks))]


def hold(index: BlockIndex, slot: int, blocks: Sequence[int]) -> Source:
    source = index.open(slot)
    index.store(source, hashes(blocks, slot), chain(blocks))
    return source


BLOCKS = st.lists(st.integers(0, 2), max_size=24)  # of few different ones, so that many chains share a beginning


def test_each_endpoint_is_credited_with_its_own_longest_match() -> None:
    index = BlockIndex()
    hold(index, 0, [1, 2, 3, 4])
    hold(index, 3, [1, 2, 9])
    hold(index, 5, [8])
    assert index.matched(chain([1, 2, 3, 4, 5])) == {0: 4, 3: 2}


def test_an_endpoint_holds_what_its_best_rank_holds_not_what_all_of_them_hold_together() -> None:
    index = BlockIndex()
    hold(index, 2, [1, 2])
    other_rank = index.open(2)
    index.store(other_rank, hashes([1, 2, 3, 4], 2)[2:], chain([1, 2, 3, 4])[2:])
    assert index.matched(chain([1, 2, 3, 4])) == {2: 2}


def test_blocks_that_are_removed_are_held_no_more_and_unknown_ones_do_no_harm() -> None:
    index = BlockIndex()
    source = hold(index, 0, [1, 2, 3])
    assert index.remove(source, [*hashes([1, 2, 3], 0)[1:], 77]) == 1
    assert index.matched(chain([1, 2, 3])) == {0: 1}
    assert index.remove(source, hashes([1, 2, 3], 0)) == 2
    assert len(index) == 0


def test_blocks_stored_twice_are_held_once() -> None:
    index = BlockIndex()
    source = hold(index, 0, [1, 2])
    index.store(source, hashes([1, 2], 0), chain([1, 2]))
    index.remove(source, hashes([1, 2], 0))
    assert index.matched(chain([1, 2])) == {}


def test_a_hash_that_comes_to_mean_another_block_lets_go_of_the_first() -> None:
    index = BlockIndex()
    source = index.open(0)
    index.store(source, [7], chain([1]))
    index.store(source, [7], chain([2]))
    assert index.matched(chain([1])) == {}
    assert index.matched(chain([2])) == {0: 1}


def test_a_cleared_cache_holds_nothing_at_once_and_its_blocks_are_dropped_by_and_by() -> None:
    index = BlockIndex()
    many = list(range(1000))
    source = hold(index, 0, many)
    hold(index, 1, many[:10])
    index.clear(source, complete=True)
    assert index.matched(chain(many)) == {1: 10}
    assert len(index) == 1000
    while len(index) > 10:
        before = len(index)
        index.store(source, hashes([1], 0), chain([0]))
        assert before - 100 < len(index) < before
    assert index.matched(chain(many)) == {0: 1, 1: 10}


def test_an_endpoint_that_left_takes_its_blocks_along_and_events_that_come_late_have_no_effect() -> None:
    index = BlockIndex()
    gone = hold(index, 0, [1, 2])
    index.count(0, "stored")
    index.forget(0)
    index.store(gone, hashes([1, 2], 0), chain([1, 2]))
    index.clear(gone, complete=True)
    index.set_live(gone, live=True)
    assert index.matched(chain([1, 2])) == {}
    assert index.counts == {}
    assert index.sources(0) == []
    hold(index, 0, [3])
    index.sweep(1000)
    assert index.matched(chain([3])) == {0: 1}
    assert len(index) == 1


def test_an_endpoint_is_live_once_all_its_ranks_are_and_have_blocks_of_one_size() -> None:
    index = BlockIndex()
    one, two = index.open(4), index.open(4)
    for source in (one, two):
        assert index.live(4) == 0
        index.set_live(source, live=True)
        index.set_block_tokens(source, 16)
    assert index.live(4) == 16
    assert 4 in index.told(16)
    assert 4 not in index.told(32)
    index.set_block_tokens(two, 32)
    assert index.live_slots == {}
    assert not index.told(16)
    index.close(two)
    assert index.live_slots == {4: 16}


def test_a_cache_that_was_joined_late_is_wholly_known_once_only_known_blocks_go() -> None:
    index = BlockIndex()
    source = hold(index, 0, list(range(2 * TRUSTED_REMOVALS + 1)))
    names = iter(hashes(list(range(2 * TRUSTED_REMOVALS + 1)), 0))
    for _ in range(TRUSTED_REMOVALS - 1):
        index.remove(source, [next(names)])
    index.remove(source, [-1])
    assert not index.complete(0)
    for _ in range(TRUSTED_REMOVALS):
        assert not index.complete(0)
        index.remove(source, [next(names)])
    assert index.complete(0)


@given(gone=st.sets(st.integers(0, 299), max_size=60), slots=st.lists(st.integers(0, 5), max_size=3, unique=True))
def test_what_is_credited_past_a_hole_is_only_what_few_looks_cannot_find(gone: set[int], slots: list[int]) -> None:
    """Engines drop the ends of chains first. Where one does not, a hole of a CHECKSth of a match and a bit is seen."""
    keys = chain(list(range(300)))
    index = BlockIndex()
    for slot in slots:
        source = index.open(slot)
        kept = [block for block in range(300) if block not in gone]
        index.store(source, kept, [keys[block] for block in kept])
    true = min(gone, default=300)
    for slot in slots:
        credited = index.matched(keys).get(slot, 0)
        assert credited >= true
        holes = sorted(block for block in gone if block < credited)
        longest = run = 0
        for before, depth in zip([-2, *holes], holes, strict=False):
            run = run + 1 if depth == before + 1 else 1
            longest = max(longest, run)
        assert longest <= credited // CHECKS + 1


class Engines(RuleBasedStateMachine):
    """Caches that drop the ends of chains first, against plain sets."""

    sources: Bundle[Source] = Bundle("sources")

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex()
        self.held: dict[Source, set[tuple[int, ...]]] = {}
        self.slots: dict[Source, int] = {}

    @initialize(target=sources)
    def first(self) -> Source:
        return self.opened(0)

    @rule(target=sources, slot=st.integers(0, 3))
    def another(self, slot: int) -> Source:
        return self.opened(slot)

    def opened(self, slot: int) -> Source:
        source = self.index.open(slot)
        self.held[source] = set()
        self.slots[source] = slot
        return source

    @rule(source=sources, blocks=BLOCKS)
    def store(self, source: Source, blocks: list[int]) -> None:
        self.index.store(source, hashes(blocks, id(source)), chain(blocks))
        if source in self.held:
            self.held[source].update(tuple(blocks[: depth + 1]) for depth in range(len(blocks)))

    @rule(source=sources, start=BLOCKS)
    def remove(self, source: Source, start: list[int]) -> None:
        """Everything from a block on."""
        gone = {held for held in self.held.get(source, ()) if held[: len(start)] == tuple(start)}
        self.index.remove(source, [hash(("engine", id(source), *blocks)) for blocks in gone])
        if source in self.held:
            self.held[source] -= gone

    @rule(source=sources)
    def clear(self, source: Source) -> None:
        self.index.clear(source, complete=True)
        if source in self.held:
            self.held[source].clear()

    @rule(source=sources)
    def close(self, source: Source) -> None:
        self.index.close(source)
        self.held.pop(source, None)

    @rule(slot=st.integers(0, 3))
    def forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.held = {source: held for source, held in self.held.items() if self.slots[source] != slot}

    @rule(blocks=BLOCKS)
    def look(self, blocks: list[int]) -> None:
        expected: dict[int, int] = {}
        for source, held in self.held.items():
            depth = next((d for d in range(len(blocks)) if tuple(blocks[: d + 1]) not in held), len(blocks))
            if depth:
                expected[self.slots[source]] = max(expected.get(self.slots[source], 0), depth)
        assert self.index.matched(chain(blocks)) == expected

    @invariant()
    def nothing_is_left_behind(self) -> None:
        self.index.sweep(10_000)
        assert len(self.index) == len(set().union(*self.held.values()))


TestEngines = Engines.TestCase
