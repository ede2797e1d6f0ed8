from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.prefix import COARSE_BLOCK, FINE_BYTES, block_end
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
