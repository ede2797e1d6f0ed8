"""What goes wrong while the load runs, one after the other, again and again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.faults.names import Names
from benchmarks.faults.processes import HOME, Configuration, EngineProcess, GatewayProcess

LASTS = 0.7
"""Seconds that each fault lasts, and then as long without one."""
AWAY = "127.0.0.2"
"""Where an engine moves to, and from where it moves back the next time."""


class Faults:
    """Each fault hits one of the engines, or the gateway itself; none of them all."""

    def __init__(
        self,
        engines: Sequence[EngineProcess],
        gateway: GatewayProcess,
        configuration: Configuration,
        names: Names | None,
    ) -> None:
        """Without `names` that can change, none does."""
        self._engines = engines
        self._gateway = gateway
        self._configuration = configuration
        self._names = names
        self.counts: Counter[str] = Counter()
        moves = {} if names is None else {"engine moved, its name with it": self._move}
        self._all: dict[str, Callable[[EngineProcess], Awaitable[None]]] = {
            "engine killed and restarted": self._kill,
            **moves,
            "engine stopped and continued": self._stop,
            "engine ten times slower": self._slow,
            "engine resets every third": self._resets,
            "reload, another weight": self._reload,
            "reload, engine removed and added": self._remove,
        }

    async def rage(self) -> None:
        """Until cancelled; what was broken is then mended."""
        number = 0
        while True:
            for name, strike in self._all.items():
                await asyncio.shield(self._strike(name, strike, number))
                await asyncio.sleep(LASTS)
                number += 1

    async def _strike(self, name: str, strike: Callable[[EngineProcess], Awaitable[None]], number: int) -> None:
        await strike(self._engines[number % len(self._engines)])
        self.counts[name] += 1

    async def _kill(self, engine: EngineProcess) -> None:
        engine.kill()
        await asyncio.sleep(LASTS)
        engine.start()

    async def _stop(self, engine: EngineProcess) -> None:
        await self._between(engine, signal.SIGSTOP, signal.SIGCONT)

    async def _slow(self, engine: EngineProcess) -> None:
        await self._between(engine, signal.SIGUSR1, signal.SIGUSR1)

    async def _resets(self, engine: EngineProcess) -> None:
        await self._between(engine, signal.SIGUSR2, signal.SIGUSR2)

    async def _reload(self, engine: EngineProcess) -> None:
        self._configuration.write(self._engines, weight=2.0)
        self._gateway.signal(signal.SIGHUP)
        await asyncio.sleep(LASTS)
        self._configuration.restore()
        self._gateway.signal(signal.SIGHUP)

    async def _remove(self, engine: EngineProcess) -> None:
        self._configuration.write([each for each in self._engines if each is not engine])
        self._gateway.signal(signal.SIGHUP)
        await asyncio.sleep(LASTS)
        self._configuration.restore()
        self._gateway.signal(signal.SIGHUP)

    async def _move(self, engine: EngineProcess) -> None:
        """As an orchestrator does it: another process elsewhere, then the name, then the end of the first one."""
        assert self._names is not None
        before = await engine.move(AWAY if engine.address == HOME else HOME)
        try:
            self._names.point(engine.number, engine.address)
            await asyncio.sleep(LASTS)
        finally:
            before.kill()
            before.wait()

    async def _between(self, engine: EngineProcess, first: signal.Signals, second: signal.Signals) -> None:
        engine.signal(first)
        await asyncio.sleep(LASTS)
        engine.signal(second)
