from __future__ import annotations

from benchmarks.peers.llm_d import DefaultScorers
from tests.benchmarks.peers.scene import Scene, counts, prompt


def test_the_three_scores_are_weighed_two_two_three() -> None:
    """e0 holds half of the prompt: +1.5. It must lose by a full queue (-2), not by KV usage of 0.7 (-1.4)."""
    scene = Scene(DefaultScorers())
    first = scene.send(prompt(1, 2))
    other = "e1" if first == "e0" else "e0"
    scene.read(first, kv_usage=0.7)
    scene.read(other)
    assert scene.send(prompt(1, 2, 3, 4)) == first
    scene.read(first, kv_usage=0.8)
    assert scene.send(prompt(1, 2, 5, 6)) == other
    scene.read(first, waiting=1)
    assert scene.send(prompt(1, 2, 7, 8)) == other, "one waiting is a whole queue where the others have none"


def test_equal_queues_do_not_count() -> None:
    scene = Scene(DefaultScorers())
    first = scene.send(prompt(1, 2))
    for name in ("e0", "e1"):
        scene.read(name, waiting=7)
    assert scene.send(prompt(1, 2)) == first


def test_ties_are_drawn() -> None:
    sent = counts(Scene(DefaultScorers(), size=4), [prompt(n) for n in range(400)])
    assert min(sent.values()) > 70


def test_the_index_is_as_large_as_the_engine_says_its_cache_is_in_its_own_blocks() -> None:
    """64 tokens of KV cache are four 16-token blocks, so four 64-token blocks are kept: a kilobyte of prompt."""
    scene = Scene(DefaultScorers(), size=1)
    scene.read("e0", kv=64)
    scene.send(prompt(1, 2))
    scene.send(prompt(3, 4, 5))
    router = scene.scheduler.router
    assert isinstance(router, DefaultScorers)
    endpoints = list(scene.scheduler.pool)
    assert router._matched(prompt(3, 4, 5), endpoints) == {0: 3}
    assert router._matched(prompt(1, 2), endpoints) == {0: 0}, "its beginning was dropped, so its rest is not found"


def test_blocks_after_the_first_that_no_engine_has_do_not_count_but_gaps_of_one_do() -> None:
    scene = Scene(DefaultScorers(blocks=2), size=2)
    router = scene.scheduler.router
    assert isinstance(router, DefaultScorers)
    e0, e1 = scene.scheduler.pool
    router.booked(prompt(1, 2, 3), e0, 0.0)  # two blocks fit: 2 and 3 stay
    router.booked(prompt(1), e1, 0.0)
    assert router._matched(prompt(1, 2, 3), [e0, e1]) == {0: 2, 1: 1}
    router.removed(e1)
    assert router._matched(prompt(1, 2, 3), [e0]) == {0: 0}


def test_a_long_key_is_four_blocks() -> None:
    scene = Scene(DefaultScorers(), size=1)
    router = scene.scheduler.router
    assert isinstance(router, DefaultScorers)
    keys = range(18)  # 4096 bytes and two of 1024
    scene.send(prompt(*keys))
    assert router._matched(prompt(*keys), list(scene.scheduler.pool)) == {0: 24}
