"""The open connections to one target, and which of them may be reused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmgate.upstream.connection import Connection


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Connections to one target: open = idle + in use."""

    open: int
    idle: int

    @property
    def in_use(self) -> int:
        return self.open - self.idle


class Pool:
    """The connection used last is reused first, so that those not needed grow old and are dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_keepalive: float) -> None:
        self._loop = loop
        self._idle_keepalive = idle_keepalive
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in order of idle_since; a dict for removal from its middle
        self._sweeper: asyncio.TimerHandle | None = None
        self._retired = False

    def take(self) -> Connection | None:
        """An idle connection young enough to be still open at the other end, or None."""
        if not self._idle:
            return None
        connection, _ = self._idle.popitem()
        if self._loop.time() - connection.idle_since < self._idle_keepalive:
            return connection
        connection.abort()
        return None  # the others are older still: the sweeper drops them

    def stats(self) -> PoolStats:
        return PoolStats(open=len(self._open), idle=len(self._idle))

    def close(self) -> None:
        for connection in tuple(self._open):
            connection.abort()
        self._stop_sweeping()

    def retire(self) -> None:
        """Close the idle ones, and the others once they are done."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.abort()
        self._stop_sweeping()

    # Called by the connections ---------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def put(self, connection: Connection) -> None:
        if self._retired:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle[connection] = None
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_keepalive, self._sweep)

    # -----------------------------------------------------------------------------------------------------------------

    def _stop_sweeping(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self) -> None:
        oldest = self._loop.time() - self._idle_keepalive
        for connection in [each for each in self._idle if each.idle_since <= oldest]:
            connection.abort()
        self._sweeper = self._loop.call_later(self._idle_keepalive, self._sweep) if self._idle else None
