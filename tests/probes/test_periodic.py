from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from random import Random

import pytest

from llmgate.probes.periodic import repeat, sleep_on_grid
from tests.probes.fakes import ManualTime, settle


async def test_work_is_done_at_once_and_then_after_each_interval() -> None:
    time, done = ManualTime(), []

    async def work() -> None:
        done.append(time.now)

    task = asyncio.create_task(repeat("it", work, lambda: 10.0, sleep=time.sleep, rng=Random(1)))
    await time.advance(0)
    assert done == [1000.0]
    await time.advance(1000)
    task.cancel()
    gaps = [later - earlier for earlier, later in pairwise(done)]
    assert min(gaps) >= 9.0
    assert max(gaps) <= 11.0
    assert len(set(gaps)) > 50, "jittered"


async def test_the_same_seed_gives_the_same_jitter() -> None:
    async def waits(seed: int) -> list[float]:
        time = ManualTime()

        async def work() -> None:
            pass

        task = asyncio.create_task(repeat("it", work, lambda: 1.0, sleep=time.sleep, rng=Random(seed)))
        await time.advance(10)
        task.cancel()
        return time.slept

    assert await waits(1) == await waits(1) != await waits(2)


async def test_an_unexpected_error_is_logged_once_by_type_and_does_not_end_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time, errors = ManualTime(), [KeyError("a"), KeyError("b"), ValueError("c"), KeyError("d")]
    done = []

    async def work() -> None:
        if errors:
            raise errors.pop(0)
        done.append(time.now)

    task = asyncio.create_task(repeat("it", work, lambda: 1.0, sleep=time.sleep, rng=Random(1)))
    await time.advance(20)
    task.cancel()
    assert len(done) > 10
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert [record.getMessage().split()[2] for record in caplog.records] == ["KeyError,", "ValueError,"]


@pytest.mark.parametrize("where", ["work", "sleep"])
async def test_cancelling_ends_it_wherever_it_is(where: str) -> None:
    time, reached = ManualTime(), asyncio.Event()

    async def work() -> None:
        reached.set()
        if where == "work":
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(repeat("it", work, lambda: 1.0, sleep=time.sleep, rng=Random(1)))
    await reached.wait()
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_long_sleeps_end_together_and_short_ones_when_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(asyncio, "sleep", note)
    for now in (1000.013, 1000.057, 1000.091):
        monkeypatch.setattr(loop, "time", lambda now=now: now)
        await sleep_on_grid(0.2)
        await sleep_on_grid(1.0)
    assert slept[::2] == pytest.approx([0.2] * 3)
    assert slept[1::2] == pytest.approx([1.087, 1.043, 1.009])
