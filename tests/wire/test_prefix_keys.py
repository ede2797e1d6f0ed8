from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BYTES, block_end
from llmgate.wire.prefix_keys import prefix_keys

PROMPTS = st.binary(max_size=3 * FINE_BYTES)


def agreement(left: Sequence[int], right: Sequence[int]) -> int:
    shorter = min(len(left), len(right))
    return next((i for i in range(shorter) if left[i] != right[i]), shorter)


@given(PROMPTS, PROMPTS)
def test_keys_agree_exactly_as_far_as_whole_blocks_of_the_prompts_do(left: bytes, right: bytes) -> None:
    shared = min(300, len(left))
    right = left[:shared] + right
    ours, theirs = prefix_keys("m", left), prefix_keys("m", right)
    common, agreeing = agreement(left, right), agreement(ours, theirs)
    assert block_end(agreeing) <= common
    assert agreeing == min(len(ours), len(theirs)) or block_end(agreeing + 1) > common


@given(PROMPTS)
def test_only_whole_blocks_have_keys(prompt: bytes) -> None:
    keys = prefix_keys("m", prompt)
    assert block_end(len(keys)) <= len(prompt) < block_end(len(keys) + 1)


def test_models_share_nothing() -> None:
    prompt = b"x" * 5000
    assert not set(prefix_keys("a", prompt)) & set(prefix_keys("b", prompt))


def test_a_long_prompt_has_few_keys() -> None:
    keys = prefix_keys("m", b"x" * (FINE_BYTES + 100 * COARSE_BLOCK))
    assert len(keys) == 116


@pytest.mark.parametrize("at", [0, FINE_BLOCK, FINE_BYTES - 1, FINE_BYTES, FINE_BYTES + 5 * COARSE_BLOCK])
def test_after_a_difference_no_keys_agree_however_alike_the_prompts_go_on(at: int) -> None:
    prompt = b"x" * (FINE_BYTES + 20 * COARSE_BLOCK)
    other = prompt[:at] + b"y" + prompt[at + 1 :]
    ours, theirs = prefix_keys("m", prompt), prefix_keys("m", other)
    same = next(blocks for blocks in range(len(ours)) if block_end(blocks + 1) > at)
    assert ours[:same] == theirs[:same]
    assert not set(ours[same:]) & set(theirs[same:])
