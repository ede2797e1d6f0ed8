"""Engines that are slowed down."""

from __future__ import annotations

import math

import pytest

from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineRequest, EventKind
from llmgate.sim.pace import PacedEngine
from tests.sim.make import PROFILE


def times(engine: Engine, slowed_at: float = math.inf, factor: float = 1.0) -> list[float]:
    """When a request's first token came and when it ended."""
    engine.submit(EngineRequest(0, 1000, 50), 0.0)
    found, events = [], []
    while (due := engine.next_event()) < math.inf:
        if due > slowed_at and isinstance(engine, PacedEngine):
            events = engine.slow(factor, slowed_at)
            slowed_at = math.inf
        else:
            events = engine.advance(due)
        found += [event.at for event in events if event.kind is not EventKind.PREEMPTED]
    return found


def test_an_engine_that_nobody_slows_is_like_any_other() -> None:
    assert times(PacedEngine(PROFILE)) == times(Engine(PROFILE))


def test_what_is_left_when_it_slows_takes_so_many_times_as_long() -> None:
    first, end = times(Engine(PROFILE))
    slow_first, slow_end = times(PacedEngine(PROFILE), slowed_at=first, factor=3.0)
    assert slow_first == pytest.approx(first)
    assert slow_end == pytest.approx(first + 3.0 * (end - first))
