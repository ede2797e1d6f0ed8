from __future__ import annotations

from collections import Counter

from benchmarks.peers.smg import CacheAware, PowerOfTwo
from tests.benchmarks.peers.scene import Scene, prompt


def test_a_prompt_known_to_more_than_the_threshold_goes_where_it_was_sent_first() -> None:
    scene = Scene(CacheAware())
    assert scene.send(prompt(1, 2)) == "e0"
    assert scene.send(prompt(1, 2, 3, tail=900)) == "e0", "512 of 1668 bytes: 0.307"
    scene = Scene(CacheAware())
    scene.send(prompt(1, 2))
    assert scene.send(prompt(1, 2, tail=1200)) == "e1", "512 of 1712 bytes: 0.299, so fewest requests"


def test_load_is_not_looked_at_until_the_difference_is_above_both_thresholds() -> None:
    scene = Scene(CacheAware())
    scene.send(prompt(1, 2))
    scene.load(63)
    assert scene.send(prompt(1, 2)) == "e0", "64 against 0: not more than 64"
    assert scene.send(prompt(1, 2)) == "e1", "65 against 0"
    scene = Scene(CacheAware())
    scene.send(prompt(1, 2))
    scene.load(299, 200)
    assert scene.send(prompt(1, 2)) == "e0", "300 is not more than 1.5 × 200"
    assert scene.send(prompt(1, 2)) == "e1", "301 is"


def test_what_is_sent_in_imbalance_is_noted_too_but_the_first_owner_stays() -> None:
    scene = Scene(CacheAware())
    scene.send(prompt(1, 2))
    scene.load(100)
    assert scene.send(prompt(1, 2, 3)) == "e1"
    scene.load(0, 99)
    assert scene.send(prompt(1, 2, 3)) == "e1", "block 3 is e1's"
    assert scene.send(prompt(1, 2)) == "e0"


def test_of_equally_loaded_engines_the_one_that_was_sent_fewer_requests_is_taken() -> None:
    scene = Scene(CacheAware(), size=3)
    for number in range(9):
        charge = scene.open(prompt(100 + number))
        assert charge.endpoint.name == f"e{number % 3}"
        scene.finish(charge)


def test_prompts_of_an_engine_that_has_left_go_to_the_first_one_for_ever() -> None:
    scene = Scene(CacheAware(), size=3)
    scene.send(prompt(7))
    assert scene.send(prompt(1, 2)) == "e1"
    scene.scheduler.remove("e1")
    scene.load(30)
    assert [scene.send(prompt(1, 2)) for _ in range(3)] == ["e0"] * 3


def test_the_tree_is_cut_back_every_two_minutes() -> None:
    scene = Scene(CacheAware(max_tree_size=512))
    assert scene.send(prompt(1, 2)) == "e0"
    scene.load(0, 5)
    assert scene.send(prompt(3, 4)) == "e0"
    scene.now = 119.0
    scene.load(9)
    assert scene.send(prompt(1, 2)) == "e0", "1024 characters, over the limit, but not cut back yet"
    scene.now = 121.0
    assert scene.send(prompt(3, 4)) == "e1", "longest unused, so dropped: fewest requests"


def test_of_two_the_lower_kv_usage_wins_where_both_report_it() -> None:
    scene = Scene(PowerOfTwo())
    scene.read("e0", kv_usage=0.6)
    scene.read("e1", kv_usage=0.5)
    scene.load(0, 20)
    assert {scene.send(prompt(1)) for _ in range(20)} == {"e1"}


def test_of_two_the_fewer_requests_win_where_one_does_not_report() -> None:
    scene = Scene(PowerOfTwo())
    scene.read("e0", kv_usage=0.6)
    scene.load(0, 20)
    assert {scene.send(prompt(1)) for _ in range(20)} == {"e0"}


def test_kv_usage_is_ten_seconds_old() -> None:
    scene = Scene(PowerOfTwo())
    scene.read("e0", kv_usage=0.1)
    scene.read("e1", kv_usage=0.2)
    scene.send(prompt(1))
    scene.read("e0", kv_usage=0.9)
    scene.now = 9.0
    assert scene.send(prompt(1)) == "e0"
    scene.now = 10.0
    assert scene.send(prompt(1)) == "e1"


def test_two_are_drawn_alike() -> None:
    scene = Scene(PowerOfTwo(), size=4)
    taken = Counter(scene.send(prompt(1)) for _ in range(400))
    assert max(taken.values()) - min(taken.values()) <= 8
