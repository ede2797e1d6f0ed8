from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Self

import pytest

from llmgate.core.gpu import GpuReading
from llmgate.probes.gpus import GpuWatch


class Broken:
    """A driver's library that is not what it should be."""

    driver = "0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> list[GpuReading]:
        raise AttributeError("nvmlDeviceGetName")


async def test_a_watch_that_ends_by_a_mistake_says_so_and_that_nothing_is_known_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: asyncio.Future[Sequence[GpuReading]] = asyncio.get_running_loop().create_future()
    nvml: Any = Broken()
    watch = GpuWatch(nvml, 1.0, told.set_result)
    watch.start()
    async with asyncio.timeout(5):
        assert not await told
    await watch.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "GPUs are no longer watched"
    ]
