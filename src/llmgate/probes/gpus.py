"""Looks at this machine's GPUs about once a second, in a thread of its own: the driver may take its time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from llmgate.core.gpu import GpuReading
from llmgate.probes.nvml import NoDriver, Nvml

logger = logging.getLogger("llmgate.probes")

Deliver = Callable[[Sequence[GpuReading]], object]


class GpuWatch:
    """`deliver` is called on the event loop that `start` was called on. Without a driver one line says so, and that is
    all. Should it end for another reason, nothing is delivered: what was known is known no more."""

    def __init__(self, nvml: Nvml, interval: float, deliver: Deliver) -> None:
        self._nvml = nvml
        self._interval = interval
        self._deliver = deliver
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="gpus", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Waits until the present look is over, a second at the most: a driver that hangs holds nothing up."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 1.0)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with self._nvml as nvml:
                logger.info("GPUs are watched; driver %s", nvml.driver)
                while not self._stopping.is_set():
                    readings = nvml.read()
                    with suppress(RuntimeError):  # the loop has ended meanwhile
                        loop.call_soon_threadsafe(self._deliver, readings)
                    self._stopping.wait(self._interval)
        except NoDriver as error:
            logger.info("no GPUs are watched: %s", error)
        except Exception:  # a mistake of ours or the driver's: the gateway goes on without
            logger.exception("GPUs are no longer watched")
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._deliver, ())
