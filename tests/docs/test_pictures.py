from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.policies import scenes
from benchmarks.policies.draw import IMAGES, PICTURES
from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS
from tests.docs.pages import read


@pytest.mark.parametrize("name", list(PICTURES))
def test_the_picture_shows_what_the_code_does(name: str) -> None:
    """When a change of a policy is meant: `python -m benchmarks.policies.draw`, and look at the pages' words."""
    assert (IMAGES / name).read_text() == PICTURES[name]()


@pytest.mark.parametrize("name", list(PICTURES))
def test_the_picture_is_on_its_policys_page(name: str) -> None:
    assert f"(../images/{name})" in read(f"docs/policies/{name.removesuffix('.svg')}.md")


def test_the_sizes_of_blocks_are_those_of_the_page() -> None:
    page = " ".join(read("docs/policies/prefix-affinity.md").split())
    assert f"{FINE_BLOCKS} of {FINE_BLOCK} bytes, then blocks of {COARSE_BLOCK:,}" in page
    assert f"shorter than {FINE_BLOCK} bytes has no block" in page


def test_a_prompt_that_everyone_shares_is_cached_everywhere_and_spread_evenly() -> None:
    outcomes = scenes.shared_prompt()
    affinity, blind, unbound = outcomes["prefix-affinity"], outcomes["round-robin"], outcomes["longest match alone"]
    even = len(affinity.order) / 4
    assert all(abs(count - even) <= even / 10 for count in affinity.requests.values())
    assert affinity.cached_share > 1.3 * blind.cached_share
    assert affinity.cached_share > 0.95 * unbound.cached_share
    assert len(unbound.requests) == 1


def test_the_more_a_policy_knows_of_sizes_the_less_is_waited() -> None:
    outcomes = scenes.mixed_sizes()
    waits = [outcomes[name].wait_p99 for name in ("round-robin", "least-connections", "token-aware")]
    assert all(better < worse for worse, better in pairwise(waits))
