from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.core.prefix import block_end
from llmgate.core.residency import FEWEST_KEYS, FEWEST_TOKENS, Residency

PER_BYTE = 0.25
BLOCK = 64  # tokens of one of the first blocks


class BlockLru:
    """The truth: blocks of prompts, of which the least recently used goes first; of one prompt, its end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blocks: OrderedDict[int, float] = OrderedDict()

    def use(self, keys: list[int]) -> None:
        for index in reversed(range(len(keys))):
            self.blocks[keys[index]] = (block_end(index + 1) - block_end(index)) * PER_BYTE
            self.blocks.move_to_end(keys[index])
        while sum(self.blocks.values()) > self.capacity:
            self.blocks.popitem(last=False)

    def held(self, keys: list[int]) -> float:
        count = next((index for index, key in enumerate(keys) if key not in self.blocks), len(keys))
        return block_end(count) * PER_BYTE


def held(residency: Residency, keys: list[int]) -> int:
    return residency.held(keys, len(keys), int(block_end(len(keys)) * PER_BYTE))


def chain(*path: int) -> list[int]:
    """Keys as of a prompt whose blocks are `path`: equal beginnings have equal keys."""
    return [hash(path[: end + 1]) for end in range(len(path))]


CHAINS = st.lists(st.integers(0, 2), min_size=1, max_size=24).map(lambda path: chain(*path))


@given(st.integers(1, 4000), st.lists(st.tuples(CHAINS, st.integers(0, 300)), max_size=40), CHAINS)
@settings(deadline=None)
def test_it_claims_at_most_one_block_more_than_a_true_lru_of_blocks(
    capacity: int, uses: list[tuple[list[int], int]], asked: list[int]
) -> None:
    residency, truth = Residency(capacity), BlockLru(capacity)
    for keys, answer in uses:
        residency.use(keys, block_end(len(keys)) * PER_BYTE + answer, PER_BYTE)
        truth.use(keys)
        for question in (keys, asked):
            coarse = 1024 * PER_BYTE if len(question) > 16 else BLOCK
            claimed = held(residency, question)
            assert 0 <= claimed <= block_end(len(question)) * PER_BYTE
            assert claimed <= truth.held(question) + coarse


@given(st.lists(CHAINS, max_size=60))
@settings(deadline=None)
def test_as_long_as_all_fits_it_claims_all_that_was_sent(uses: list[list[int]]) -> None:
    residency, truth = Residency(10**9), BlockLru(10**9)
    for keys in uses:
        residency.use(keys, block_end(len(keys)) * PER_BYTE, PER_BYTE)
        truth.use(keys)
        assert held(residency, keys) == truth.held(keys)


def test_what_was_used_least_recently_goes_first() -> None:
    residency = Residency(4 * 4 * BLOCK)
    chains = [chain(number, 1, 2, 3) for number in range(5)]
    for keys in chains[:4]:
        residency.use(keys, 4 * BLOCK, PER_BYTE)
    residency.use(chains[0], 4 * BLOCK, PER_BYTE)
    residency.use(chains[4], 4 * BLOCK, PER_BYTE)
    assert [held(residency, keys) for keys in chains] == [256, 0, 256, 256, 256]


def test_the_end_of_a_chain_goes_before_its_beginning() -> None:
    residency = Residency(6 * BLOCK)
    old, new = chain(1, 1, 1, 1), chain(2, 2, 2)
    residency.use(old, 4 * BLOCK, PER_BYTE)
    residency.use(new, 3 * BLOCK, PER_BYTE)
    assert held(residency, old) == 3 * BLOCK
    assert held(residency, new) == 3 * BLOCK


def test_answers_take_room_too() -> None:
    residency = Residency(6 * BLOCK)
    residency.use(chain(1, 1), 2 * BLOCK, PER_BYTE)
    residency.use(chain(2, 2), 2 * BLOCK + 4 * BLOCK, PER_BYTE)
    assert held(residency, chain(1, 1)) == 0


def test_a_shared_beginning_takes_room_once() -> None:
    residency = Residency(24 * BLOCK)
    for user in range(10):
        residency.use(chain(0, 0, 0, 0, 0, 0, 0, 0, user), 9 * BLOCK, PER_BYTE)
    assert all(held(residency, chain(0, 0, 0, 0, 0, 0, 0, 0, user)) == 9 * BLOCK for user in range(10))


def test_a_prompt_larger_than_the_cache_leaves_what_fits() -> None:
    residency = Residency(2 * BLOCK)
    residency.use(chain(1, 1, 1, 1), 4 * BLOCK, PER_BYTE)
    assert held(residency, chain(1, 1, 1, 1)) == 2 * BLOCK


def test_its_memory_is_bounded_whatever_is_sent() -> None:
    capacity = 100_000
    most = 2 * max(capacity // FEWEST_TOKENS + 100, FEWEST_KEYS)
    residency = Residency(capacity)
    for number in range(4000):
        residency.use(chain(*([number] * 50)), 1.0, 1e-5)  # a token is worth thousands of bytes
        assert len(residency) <= most + 50


def test_the_same_prompt_again_and_again_is_remembered_once() -> None:
    residency = Residency(10**9)
    for _ in range(1000):
        residency.use(chain(1, 2, 3), 3 * BLOCK, PER_BYTE)
    assert residency.uses == 1
