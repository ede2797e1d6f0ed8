from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.prompt_tree import LETTER_BITS, PromptTree, letters
from llmgate.core.prefix import block_end


def test_a_prompt_belongs_to_whoever_was_sent_its_deepest_known_block_first() -> None:
    tree = PromptTree()
    tree.insert([1, 2, 3], "a")
    tree.insert([1, 2, 3, 4], "b")
    assert tree.match([1, 2, 3]) == (768, "a"), "b was sent it too, but later"
    assert tree.match([1, 2, 3, 4, 5]) == (1024, "b")
    assert tree.match([9]) == (0, None)


def test_after_a_fork_the_next_letter_leads_to_whoever_sent_one_like_it() -> None:
    tree = PromptTree()
    tree.insert([1, beginning("k")], "a")
    tree.insert([1, beginning("no")], "b")
    tree.insert([1, beginning("nm")], "c")
    assert tree.match([1, beginning("p")]) == (256, "a"), "no letter like it: who sent the common part first"
    assert tree.match([1, beginning("nk")]) == (256, "b"), "two begin with n, b was first"
    assert tree.match([1, beginning("nmp")]) == (256, "c"), "the second letter tells them apart"


def beginning(text: str) -> int:
    """The key of some block that begins like this, letters being a to p."""
    wanted = sum((ord(letter) - ord("a")) << LETTER_BITS * place for place, letter in enumerate(text))
    mask = (1 << LETTER_BITS * len(text)) - 1
    return next(key for key in count(1000 * len(text)) if letters(key) & mask == wanted)


def test_eviction_takes_the_ends_of_the_oldest_prompts_of_each_worker() -> None:
    tree = PromptTree()
    tree.insert([1, 2], "a")
    tree.insert([1, 3], "a")
    tree.evict(512)
    assert tree.match([1, 2])[0] == 256
    assert tree.match([1, 3]) == (512, "a")


def test_what_its_maker_dropped_belongs_to_another_that_has_it() -> None:
    tree = PromptTree()
    tree.insert([1], "a")
    tree.insert([1], "b")
    tree.remove("a")
    assert tree.match([1]) == (256, "b")
    tree.remove("b")
    assert tree.match([1]) == (0, None)
    assert len(tree) == 0


chains = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(
    lambda path: [hash(tuple(path[: end + 1])) for end in range(len(path))]
)


@given(st.lists(st.tuples(chains, st.sampled_from("abc")), max_size=30), chains, st.integers(0, 3000))
def test_it_agrees_with_a_list_of_the_prompts(sent: list[tuple[list[int], str]], asked: list[int], limit: int) -> None:
    tree = PromptTree()
    for keys, name in sent:
        tree.insert(keys, name)
    shared = max((_common(keys, asked) for keys, _ in sent), default=0)
    matched, owner = tree.match(asked)
    assert matched == block_end(shared)
    assert owner is None if not shared else owner in {name for keys, name in sent if _common(keys, asked) >= shared}
    before = {number: len(recent) for number, recent in tree._recent.items()}
    tree.evict(limit)
    for number, recent in tree._recent.items():
        assert recent.size <= limit
        assert recent.size > limit - 256 or len(recent) == before[number], "no more than it must"
        assert all(tree._held[key] >> number & 1 for key in recent)
    assert tree.match(asked)[0] <= matched


def _common(left: list[int], right: list[int]) -> int:
    return sum(a == b for a, b in zip(left, right, strict=False))
