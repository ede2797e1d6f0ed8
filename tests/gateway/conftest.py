from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

SPEED_UP = 20

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, LoopFactory]:
    """The event loop that the gateway runs on; where a module says BOTH_LOOPS, the one it falls back to as well."""
    factories: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    if isinstance(item, pytest.Function) and getattr(item.module, "BOTH_LOOPS", False):
        factories["asyncio"] = asyncio.new_event_loop
    return factories


class _HastyAsyncio:
    """asyncio for uvicorn's server, which polls ten times a second whether it shall stop and has stopped."""

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / SPEED_UP)


@pytest.fixture(autouse=True)
def _no_waiting_for_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.server.asyncio", _HastyAsyncio())
