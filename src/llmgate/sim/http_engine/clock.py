"""Engine time that runs `speed` times as fast as the wall's, and may change its pace while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class EngineClock:
    """Seconds of the modelled engine since it was made. `wall` tells seconds; it never runs backwards.

    `slowdown` is a fault: an engine that takes twice as long for everything has 2. Instants already past stay put.
    """

    def __init__(self, speed: float = 1.0, wall: Callable[[], float] = time.monotonic) -> None:
        self.wall = wall
        self.speed = speed
        self.pace = speed  # its seconds a second, now
        self._wall_base = wall()
        self._base = 0.0

    def at(self, wall: float) -> float:
        """The engine's time at the wall's time `wall`, which may lie in the past."""
        return self._base + (wall - self._wall_base) * self.pace

    def now(self) -> float:
        return self.at(self.wall())

    def wall_at(self, engine_time: float) -> float:
        """The wall's time at which the engine's will be `engine_time`; inf for inf."""
        return math.inf if engine_time == math.inf else self._wall_base + (engine_time - self._base) / self.pace

    def set_slowdown(self, factor: float) -> None:
        wall = self.wall()
        self._base, self._wall_base = self.at(wall), wall
        self.pace = self.speed / factor
