from __future__ import annotations

from benchmarks.peers.vllm_router import CacheAware
from tests.benchmarks.peers.scene import Scene, counts, prompt


def test_unknown_prompts_go_to_the_first_of_equally_loaded_engines() -> None:
    assert counts(Scene(CacheAware(), size=3), [prompt(n) for n in range(9)]) == {"e0": 9}


def test_known_prompts_stay_until_the_imbalance_rule_holds() -> None:
    scene = Scene(CacheAware())
    assert scene.send(prompt(1, 2)) == "e0"
    scene.load(63)
    assert scene.send(prompt(1, 2)) == "e0"
    assert scene.send(prompt(1, 2)) == "e1"


def test_an_engine_that_leaves_is_forgotten() -> None:
    scene = Scene(CacheAware(), size=3)
    scene.load(1)
    assert scene.send(prompt(1, 2)) == "e1"
    scene.scheduler.remove("e1")
    assert scene.send(prompt(1, 2)) == "e2", "unknown now: fewest requests"
