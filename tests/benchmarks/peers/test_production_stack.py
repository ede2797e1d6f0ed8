from __future__ import annotations

from collections import Counter

from benchmarks.peers.production_stack import PrefixAware, Session
from tests.benchmarks.peers.scene import Scene, counts, prompt


def test_a_prompt_that_all_share_sends_all_to_one_engine() -> None:
    """1000 users, one system prompt of 1000 characters, four pods: as its issue #957 tells, and #1035."""
    scene = Scene(PrefixAware(), size=4)
    sent = counts(scene, [prompt(1, 2, 3, 1000 + user) for user in range(1000)])
    assert list(sent.values()) == [1000]


def test_the_deepest_match_wins_whatever_the_load() -> None:
    scene = Scene(PrefixAware(), size=4)
    home = scene.send(prompt(1, 2))
    scene.load(*[500 if f"e{number}" == home else 0 for number in range(4)])
    assert scene.send(prompt(1, 2, 3)) == home


def test_prompts_that_match_nothing_are_drawn_alike() -> None:
    sent = counts(Scene(PrefixAware(), size=4), [prompt(n) for n in range(400)])
    assert min(sent.values()) > 70


def test_among_those_that_hold_as_much_one_is_drawn() -> None:
    scene = Scene(PrefixAware(), size=3)
    for endpoint in list(scene.scheduler.pool)[:2]:
        scene.scheduler.router.booked(prompt(1, 2), endpoint, 0.0)
    sent = counts(scene, [prompt(1, 2) for _ in range(200)])
    assert set(sent) == {"e0", "e1"}
    assert min(sent.values()) > 70


def test_a_session_stays_on_its_engine_and_moves_only_if_that_leaves() -> None:
    scene = Scene(Session(), size=4)
    homes = {f"s{n}": scene.send(prompt(session=f"s{n}")) for n in range(200)}
    assert min(Counter(homes.values()).values()) > 25
    scene.load(500)
    assert {name: scene.send(prompt(session=name)) for name in homes} == homes
    scene.scheduler.remove("e2")
    moved = {name for name, home in homes.items() if scene.send(prompt(session=name)) != home}
    assert moved == {name for name, home in homes.items() if home == "e2"}


def test_without_a_session_the_fewest_arrivals_in_a_minute_decide() -> None:
    scene = Scene(Session(), size=3)
    assert [scene.send(prompt()) for _ in range(4)] == ["e0", "e1", "e2", "e0"]
    scene.now = 50.0
    assert [scene.send(prompt()) for _ in range(2)] == ["e1", "e2"]
    scene.now = 61.0
    assert scene.send(prompt()) == "e0", "its two are over a minute old, the others have one each"
