from __future__ import annotations

from benchmarks.peers.aibrix import PrefixCache
from tests.benchmarks.peers.scene import Scene, counts, prompt


def test_the_longest_match_by_whole_percent_wins_then_the_fewest_requests() -> None:
    scene = Scene(PrefixCache(), size=3)
    e0, e1, e2 = scene.scheduler.pool
    router = scene.scheduler.router
    router.booked(prompt(1), e0, 0.0)
    router.booked(prompt(1, 2), e1, 0.0)
    router.booked(prompt(1, 2), e2, 0.0)
    scene.load(0, 1, 0)
    assert scene.send(prompt(1, 2, 3)) == "e2"


def test_a_pod_above_the_mean_and_one_deviation_is_passed_over() -> None:
    """Requests 4, 0, 0: mean 1.33, deviation 2.31, so 4 is above 3.64; 3, 0, 0: 1 + 1.73 is below 3; 2, 1, 1 : 1.33 +
    0.58 is below 2; 2, 0, 2: 1.33 + 1.15 is not."""
    for requests, stays in (((4, 0, 0), False), ((3, 0, 0), False), ((2, 1, 1), False), ((2, 0, 2), True)):
        scene = Scene(PrefixCache(), size=3)
        e0, *_ = scene.scheduler.pool
        scene.scheduler.router.booked(prompt(1, 2), e0, 0.0)
        scene.load(*requests)
        assert (scene.send(prompt(1, 2)) == "e0") is stays, requests


def test_over_eight_requests_apart_only_the_least_loaded_are_matched() -> None:
    scene = Scene(PrefixCache(), size=4)
    e0, e1, *_ = scene.scheduler.pool
    scene.scheduler.router.booked(prompt(1, 2), e0, 0.0)
    scene.scheduler.router.booked(prompt(1), e1, 0.0)
    scene.load(1, 0, 0, 9)
    assert scene.send(prompt(1, 2)) == "e1", "9 - 0 > 8: e0 has not the least, e1 has"


def test_without_a_match_one_of_the_fewest_requests_is_drawn() -> None:
    scene = Scene(PrefixCache(), size=3)
    scene.load(5)
    sent = counts(scene, [prompt(n) for n in range(200)])
    assert set(sent) == {"e1", "e2"}
    assert min(sent.values()) > 70


def test_the_index_holds_800_kilobytes_of_prompts_in_all_and_drops_beginnings_first() -> None:
    scene = Scene(PrefixCache(blocks=192), size=2)  # three keys of 64 blocks
    e0, e1 = scene.scheduler.pool
    router = scene.scheduler.router
    assert isinstance(router, PrefixCache)
    router.booked(prompt(1, 2), e0, 0.0)
    router.booked(prompt(3, 4), e1, 0.0)
    assert router._percents(prompt(1, 2), [e0, e1]) == {}, "block 1 was dropped, and with it the way to block 2"
    assert router._percents(prompt(3, 4), [e0, e1]) == {"e1": 100}


def test_what_was_not_sent_again_for_twenty_minutes_is_dropped() -> None:
    scene = Scene(PrefixCache(), size=2)
    home = scene.send(prompt(1, 2))
    router = scene.scheduler.router
    assert isinstance(router, PrefixCache)
    scene.now = 1200.0
    scene.send(prompt(9))
    assert router._percents(prompt(1, 2, 3), list(scene.scheduler.pool)) == {home: 66}
    scene.now = 1200.1
    scene.send(prompt(9))
    assert router._percents(prompt(1, 2, 3), list(scene.scheduler.pool)) == {}
