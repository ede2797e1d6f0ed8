"""One wake-up at an absolute time, to some ten microseconds.

Event loops count their timers in whole milliseconds (uvloop, libuv) or round them up to one (epoll). At `--speed 10` a
millisecond is ten of the engine's, more than a decoding step, so that Linux' timerfd (timerfd_create(2)) is used where
there is one. `os.timerfd_create` came with Python 3.13; ctypes has it for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
from collections.abc import Callable
from typing import Protocol

CLOCK_MONOTONIC = 1  # <linux/time.h>; what time.monotonic() reads
TFD_TIMER_ABSTIME = 1  # <linux/timerfd.h>
TFD_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class Alarm(Protocol):
    def set(self, when: float) -> None:
        """Ring once at `when` (seconds of time.monotonic), at once if that is past, never if it is inf. The last
        call counts."""

    def close(self) -> None: ...


def make_alarm(loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> Alarm:
    """The most exact one that the system has."""
    try:
        return TimerFdAlarm(loop, ring)
    except (OSError, AttributeError):  # no such call here, or none left
        return LoopAlarm(loop, ring)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _TimerSpec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class TimerFdAlarm:
    """Raises OSError or AttributeError where the system has no timerfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(CLOCK_MONOTONIC, TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._loop = loop
        self._ring = ring
        self._set_for = math.inf
        loop.add_reader(self._fd, self._readable)

    def set(self, when: float) -> None:
        if when == self._set_for:
            return
        self._set_for = when
        value = self._spec.value
        if when == math.inf:
            value.seconds = value.nanoseconds = 0  # disarms
        else:
            nanoseconds = max(1, math.ceil(when * 1e9))
            value.seconds, value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        self._settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):  # set anew since it expired
            os.read(self._fd, 8)
            self._set_for = math.inf
            self._ring()


class LoopAlarm:
    """By the loop's own timers, up to a millisecond late, and never early even where those are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: float) -> None:
        self.close()
        if when < math.inf:
            self._handle = self._loop.call_at(when, self._ring)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
