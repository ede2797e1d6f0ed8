from __future__ import annotations

import asyncio
import math
import time

import pytest

from llmgate.sim.http_engine.alarm import Alarm, LoopAlarm, TimerFdAlarm, make_alarm
from tests.sim.http_engine.sims import PATIENCE


@pytest.mark.parametrize("kind", [TimerFdAlarm, LoopAlarm])
async def test_an_alarm_rings_once_for_the_last_time_that_was_set(kind: type[TimerFdAlarm | LoopAlarm]) -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm: Alarm = kind(asyncio.get_running_loop(), lambda: rung.put_nowait(time.monotonic()))
    wanted = time.monotonic() + 0.01
    alarm.set(time.monotonic() + 0.001)
    alarm.set(wanted)
    async with asyncio.timeout(PATIENCE):
        assert await rung.get() >= wanted - 0.001  # a loop's own timers may be a millisecond early
        alarm.set(0.0)  # long past
        await rung.get()
    alarm.set(time.monotonic() + 0.001)
    alarm.set(math.inf)
    alarm.close()
    assert rung.empty()


async def test_the_most_exact_alarm_is_never_early() -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm = make_alarm(asyncio.get_running_loop(), lambda: rung.put_nowait(time.monotonic()))
    async with asyncio.timeout(PATIENCE):
        for step in range(20):
            wanted = time.monotonic() + step * 1e-4
            alarm.set(wanted)
            assert await rung.get() >= wanted
    alarm.close()
