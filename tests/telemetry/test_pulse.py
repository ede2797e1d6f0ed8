"""The event loop's lag and the missing of file descriptors, as metrics and in the log."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from llmgate.telemetry.pulse import PERIOD, Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Beaten:
    """A pulse whose beats the test sets off."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clock = Clock()
        self.felt: list[float] = []
        self.pulse = Pulse(self.registry, self.felt.append, self.clock)

    def beat(self, late: float = 0.0) -> None:
        self.clock.now += PERIOD + late
        self.pulse.beat()

    def value(self, name: str) -> float:
        return self.registry.get_sample_value(name) or 0.0


@pytest.fixture
async def beaten() -> AsyncIterator[Beaten]:
    beaten = Beaten()
    beaten.pulse.start()
    yield beaten
    beaten.pulse.stop()


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`descriptors(False)`: none is left."""
    real = os.open

    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    return lambda left: monkeypatch.setattr("os.open", real if left else refuse)


async def test_the_lag_is_what_a_beat_comes_late(beaten: Beaten) -> None:
    for late in (0.0, 0.3, 0.02):
        beaten.beat(late)
    assert beaten.felt == pytest.approx([0.0, 0.3, 0.02], abs=1e-6)
    assert beaten.value("llmgate_event_loop_lag_seconds_count") == 3
    assert beaten.value("llmgate_event_loop_lag_seconds_sum") == pytest.approx(0.32)


async def test_a_beat_that_comes_early_is_not_late(beaten: Beaten) -> None:
    beaten.beat(-0.05)
    assert beaten.felt == [0.0]


async def test_missing_descriptors_are_counted_once_and_told_with_what_to_do(
    beaten: Beaten, descriptors: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    descriptors(False)
    for _ in range(3):
        beaten.beat()
    assert beaten.value("llmgate_descriptor_exhaustions_total") == 1
    (message,) = caplog.messages
    assert "Too many open files" in message
    assert "server.max_connections" in message


async def test_missing_descriptors_that_come_and_go_fill_no_log(
    beaten: Beaten, descriptors: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        descriptors(False)
        beaten.beat()
        descriptors(True)
        beaten.beat()
    assert beaten.value("llmgate_descriptor_exhaustions_total") == 10
    assert len(caplog.messages) == 1
    descriptors(False)
    beaten.beat(60.0)
    assert len(caplog.messages) == 2


async def test_after_the_stop_it_beats_no_more(beaten: Beaten) -> None:
    beaten.pulse.stop()
    assert beaten.pulse._timer is None
