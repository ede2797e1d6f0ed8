from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.peers import PEERS
from benchmarks.peers.blocks import Names, Recent, within
from benchmarks.peers.choice import Polled
from llmgate.core.protocols import Candidates, Router
from llmgate.sim.world import SeeingRouter
from llmgate.testing import check_router
from tests.benchmarks.peers.scene import Scene


def router(reference: str) -> type[Router]:
    module, name = reference.split(":")
    found: type[Router] = getattr(import_module(module), name)
    assert issubclass(found, Router)
    return found


WITHOUT_A_WORLD = [each for each in PEERS.values() if not issubclass(router(each), SeeingRouter)]


@pytest.mark.parametrize("reference", WITHOUT_A_WORLD)
def test_each_row_keeps_the_scheduler_s_contract(reference: str) -> None:
    check_router(router(reference))


def test_keys_within_a_size_are_those_of_whole_blocks_in_it() -> None:
    keys = list(range(20))  # 16 of 256 bytes, 4 of 1024
    assert within(keys, 255) == []
    assert within(keys, 512) == [0, 1]
    assert within(keys, 4096 + 1023) == list(range(16))
    assert within(keys, 4096 + 2048) == list(range(18))
    assert within(keys, 1_000_000) == keys


def test_the_least_recently_used_blocks_go_first() -> None:
    recent = Recent()
    for key in (1, 2, 3, 1):
        recent.use(key, 10)
    assert recent.size == 30
    assert list(recent.drop_to(15)) == [2, 3]
    assert list(recent) == [1]


def test_a_name_keeps_its_number() -> None:
    names = Names()
    assert [names.number(name) for name in ("a", "b", "a")] == [0, 1, 0]
    assert list(names.of(names.mask(["b", "c"]))) == ["b", "c"]


def test_readings_are_as_old_as_the_period_lets_them() -> None:
    scene, polled = Scene(router(PEERS["smg cache_aware"])()), Polled(10.0)
    endpoints = list(scene.scheduler.pool)
    scene.read("e0", kv_usage=0.1)
    for now, usage, seen in ((0.0, 0.2, 0.1), (9.9, 0.3, 0.1), (10.0, 0.4, 0.3)):
        readings = polled.at(Candidates(endpoints, [0, 0], now))
        assert readings["e0"].kv_usage == seen
        assert "e1" not in readings
        scene.read("e0", kv_usage=usage)
