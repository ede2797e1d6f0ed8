"""The process's own state, felt ten times a second: is the event loop late, is there a file descriptor left?"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable
from math import inf

from prometheus_client import CollectorRegistry, Counter, Histogram

PERIOD = 0.1
"""Seconds. A beat takes some 10 µs, of which opening a file is most."""

LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

TOLD_SECONDS = 60.0
"""Between two lines in the log that say that file descriptors are missing."""

logger = logging.getLogger("llmgate.telemetry")


class Pulse:
    """`felt` is told by how many seconds the event loop was late, at each beat.

    A file descriptor is asked for since uvloop does not tell when it has none for a new connection: it closes those
    that wait, and asyncio's own loop leaves them waiting.
    """

    def __init__(self, registry: CollectorRegistry, felt: Callable[[float], None], clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._felt = felt
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._exhausted = False
        self._told = -inf
        self._lag = Histogram(
            "llmgate_event_loop_lag_seconds",
            "By how much the event loop was late, ten times a second.",
            buckets=LAG_BOUNDS,
            registry=registry,
        )
        self._exhaustions = Counter(
            "llmgate_descriptor_exhaustions", "Times that no file descriptor was left.", registry=registry
        )

    def start(self) -> None:
        """Needs a running event loop."""
        self._due = self._clock() + PERIOD
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self.beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def beat(self) -> None:
        now = self._clock()
        lag = max(now - self._due, 0.0)
        self._lag.observe(lag)
        self._felt(lag)
        self._look_for_descriptors(now)
        self.start()

    def _look_for_descriptors(self, now: float) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if self._exhausted:
                return
            self._exhausted = True
            self._exhaustions.inc()
            if now - self._told >= TOLD_SECONDS:
                self._told = now
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                logger.error(
                    "no file descriptor is left (%s; this process may have %d): new connections fail until some are "
                    "closed. Raise the limit (ulimit -n, LimitNOFILE=), or lower server.max_connections.",
                    error.strerror,
                    limit,
                )
        else:
            self._exhausted = False
