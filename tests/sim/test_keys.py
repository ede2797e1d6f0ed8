"""Chain keys from a trace's block ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.prefix import FINE_BLOCKS, block_end
from llmgate.sim.keys import BYTES_PER_TOKEN, chain_keys, prompt_bytes, whole_blocks
from tests.sim.make import request


@given(st.integers(0, 1_000_000))
def test_whole_blocks_are_those_that_end_within(size: int) -> None:
    count = whole_blocks(size)
    assert block_end(count) <= size < block_end(count + 1)


def test_keys_reach_as_far_as_the_blocks_and_no_further_than_the_prompt() -> None:
    blocks = tuple(range(100, 140))
    assert len(chain_keys(request(prompt=1000, blocks=blocks))) == whole_blocks(40 * 16 * BYTES_PER_TOKEN)
    assert len(chain_keys(request(prompt=100, blocks=blocks))) == whole_blocks(prompt_bytes(100))
    assert chain_keys(request(prompt=1000)) == []


@given(st.sampled_from((16, 64, 512)), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60))
def test_equal_beginnings_have_equal_keys_and_no_others(size: int, shared: int, mine: int, yours: int) -> None:
    common = tuple(range(shared))
    a = common + tuple(range(1000, 1000 + mine))
    b = common + tuple(range(2000, 2000 + yours))
    one, other = (chain_keys(request(prompt=len(blocks) * size, blocks=blocks, block_tokens=size)) for blocks in (a, b))
    equal = whole_blocks(shared * size * BYTES_PER_TOKEN)
    assert one[:equal] == other[:equal]
    assert not set(one[equal:]) & set(other)


def test_byte_blocks_within_one_trace_block_have_keys_of_their_own() -> None:
    keys = chain_keys(request(prompt=1024, blocks=(7, 8), block_tokens=512))
    assert len(set(keys)) == len(keys) == FINE_BLOCKS
