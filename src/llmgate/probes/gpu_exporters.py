"""Reads what an exporter says of another node's GPUs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

import httpx2

from llmgate.core.gpu import GpuReading
from llmgate.core.gpus import LIFETIME
from llmgate.probes.periodic import repeat
from llmgate.wire.gpu_pages import NoGpuPage, parse_readings

LONGEST = 5.0
"""Seconds that a page may take."""

logger = logging.getLogger("llmgate.probes")

Deliver = Callable[[str, Sequence[GpuReading]], object]


class ExporterWatch:
    """`deliver` gets the node and its readings each `interval` seconds. An exporter that cannot be read is told of
    once, and once when it can again; from some seconds later on its GPUs are not known, which is not to say that they
    have failed.
    """

    def __init__(self, node: str, url: str, interval: float, deliver: Deliver, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._node = node
        self._url = url
        self._interval = interval
        self._deliver = deliver
        self._clock = clock
        self._client = httpx2.AsyncClient(timeout=LONGEST, trust_env=False)
        self._task: asyncio.Task[None] | None = None
        self._failed = ""
        self._read_at = clock()

    def start(self) -> None:
        look = repeat(f"GPUs of {self._node}", self._look, lambda: self._interval, sleep=asyncio.sleep, rng=Random())
        self._task = asyncio.create_task(look)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _look(self) -> None:
        at = self._clock()
        try:
            answer = await self._client.get(self._url)
            if answer.status_code != httpx2.codes.OK:
                raise NoGpuPage(f"it answers {answer.status_code}")
            readings = parse_readings(answer.content, self._node, at)
        except (httpx2.HTTPError, NoGpuPage) as error:
            self._missed(str(error) or type(error).__name__, at)
            return
        if self._failed:
            logger.info("GPUs of %s are read again", self._node)
        self._failed, self._read_at = "", at
        self._deliver(self._node, readings)

    def _missed(self, why: str, at: float) -> None:
        if not self._failed:
            logger.warning("GPUs of %s cannot be read from %s: %s", self._node, self._url, why)
        self._failed = why
        if at - self._read_at > LIFETIME:
            self._read_at = at
            self._deliver(self._node, ())
