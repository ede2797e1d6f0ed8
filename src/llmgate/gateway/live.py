"""The gateway as it is now, to whoever watches: one snapshot a second, made once for all of them.

Nobody's slowness holds anything up. A watcher that has not taken a line yet when the next one is made misses that one,
and one that takes nothing for a while is dropped.
"""

from __future__ import annotations

import asyncio

from llmgate.gateway.asgi import Receive, Scope, Send
from llmgate.gateway.snapshots import Snapshots

PERIOD = 1.0
"""Seconds between two snapshots."""
MOST_WATCHERS = 32
STALLED_SECONDS = 15.0
"""How long a watcher may take nothing: fifteen lines, or a laptop's lid closed for a moment."""

Line = bytes | None


class Live:
    """The counters are sampled each second, watched or not, so that rates are there for whoever comes; snapshots are
    made only for those who watch. Needs a running event loop from `start` to `stop`."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[Line]] = []
        self._watchers = 0
        self._dismissals = 0

    def start(self) -> None:
        self.beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.dismiss()

    def dismiss(self) -> None:
        """End all streams: who may watch is to be asked again, or there is nothing more to see."""
        self._dismissals += 1
        self._tell(None)

    @property
    def full(self) -> bool:
        return self._watchers >= MOST_WATCHERS

    @property
    def watchers(self) -> int:
        return self._watchers

    def beat(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self.beat)
        self.snapshots.sample()
        if self._waiting:
            self._tell(self._line(history=False))

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application that answers with a line a second, until the watcher has left."""
        dismissals = self._dismissals
        self._watchers += 1
        leaving = asyncio.ensure_future(_left(receive))
        try:
            head = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            line: Line = self._line(history=True)
            while line is not None and not leaving.done():
                async with asyncio.timeout(STALLED_SECONDS):
                    await send({"type": "http.response.body", "body": line, "more_body": True})
                line = await self._next() if dismissals == self._dismissals else None
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # the server closes a connection whose answer is left unfinished
        finally:
            self._watchers -= 1
            leaving.cancel()

    def _line(self, *, history: bool) -> bytes:
        return self.snapshots.take(history=history).model_dump_json().encode() + b"\n"

    async def _next(self) -> Line:
        future: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future

    def _tell(self, line: Line) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(line)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
