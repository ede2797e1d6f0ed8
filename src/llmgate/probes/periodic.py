"""Work that is done again and again until it is cancelled."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from random import Random
from typing import NoReturn

JITTER = 0.1
"""Intervals vary by ±10 %, so that many tasks started together do not stay together."""

Sleep = Callable[[float], Awaitable[None]]

GRID_SECONDS = 0.1
"""Long sleeps end together at multiples of this. Work that comes alone finds the processor's caches cold: 100 engines
whose pages are read each second took 4.9 % of a core one by one, and 3.0 % in ten groups (`python -m
benchmarks.observability.cost`)."""
SHORT_SECONDS = 0.5

logger = logging.getLogger("llmgate.probes")


async def sleep_on_grid(seconds: float) -> None:
    """At least so long; what sleeps for less than SHORT_SECONDS sleeps for that exactly."""
    now = asyncio.get_running_loop().time()
    due = now + seconds
    await asyncio.sleep((due if seconds < SHORT_SECONDS else math.ceil(due / GRID_SECONDS) * GRID_SECONDS) - now)


async def repeat(
    name: str,
    work: Callable[[], Awaitable[None]],
    interval: Callable[[], float],
    *,
    sleep: Sleep,
    rng: Random,
) -> NoReturn:
    """Do `work`, sleep for `interval()` seconds ± JITTER, and so on.

    `work` handles the errors that it expects. Any other is a mistake of ours: each type is logged once, and the work
    goes on, since one bad answer must not blind the gateway for good.
    """
    logged: set[type[Exception]] = set()
    while True:
        try:
            await work()
        except Exception as error:
            if type(error) not in logged:
                logged.add(type(error))
                logger.exception("%s: unexpected %s, logged once; trying on", name, type(error).__name__)
        await sleep(interval() * rng.uniform(1 - JITTER, 1 + JITTER))
