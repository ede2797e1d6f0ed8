"""Clients that send streamed and whole requests one after the other, leave at random moments, and keep count of what
became of each."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from rich.progress import Progress, TaskID

PATIENCE = 60.0
"""Seconds; a request without an answer by then is lost."""

LEAVE_WITHIN = {False: 0.004, True: 0.02}
"""Seconds, of a whole and a streamed answer: the moment of leaving is uniform in them, as such an answer takes about
that long. Whose answer is complete before has not left."""

RECONNECT = 0.1
"""Share of requests that are followed by a new connection."""

READ = 65_536


class Outcome(enum.Enum):
    ANSWERED = "answered"  # whole, below 400
    REFUSED = "answered with an error"  # whole, an error of the engine or the gateway
    BROKEN = "broken off after the first byte"  # by an error event, or by the end of the connection
    LEFT = "left by the client"
    LOST = "lost"  # neither an answer nor an error


@dataclass
class Load:
    port: int
    requests: int
    concurrency: int
    leaving: float  # share of requests
    seed: int = 1


class Tally:
    """What became of the requests so far."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.statuses: Counter[int] = Counter()  # of refusals
        self.resent = 0  # on a new connection, as the idle one had been closed
        self.sent = 0

    def failures(self) -> int:
        """Requests that whoever did not leave was let down with."""
        return sum(self.outcomes[each] for each in (Outcome.REFUSED, Outcome.BROKEN, Outcome.LOST))


def request(streamed: bool) -> bytes:
    body = b'{"model":"m","messages":[{"role":"user","content":"Tell me of %b."}]%b}' % (
        b"the sea" * 20,
        b',"stream":true' if streamed else b"",
    )
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


REQUESTS = {streamed: request(streamed) for streamed in (False, True)}


class _Closed(Exception):
    """The connection ended before a byte of an answer."""


class Client:
    """One after the other, on one connection as long as it is kept."""

    def __init__(self, load: Load, tally: Tally, rng: Random) -> None:
        self._load = load
        self._tally = tally
        self._rng = rng
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self) -> Outcome:
        streamed = self._rng.random() < 0.5
        leave = self._rng.uniform(0, LEAVE_WITHIN[streamed]) if self._rng.random() < self._load.leaving else None
        self._tally.sent += 1
        reused = self._streams is not None
        try:
            async with asyncio.timeout(PATIENCE):
                try:
                    outcome = await self._ask(streamed, leave)
                except _Closed:
                    if not reused:
                        return Outcome.LOST
                    self._tally.resent += 1  # as every client does: it was closed just before, or as, we wrote
                    outcome = await self._ask(streamed, leave)
        except (TimeoutError, OSError, _Closed):
            self.close()
            return Outcome.LOST
        if self._rng.random() < RECONNECT:
            self.close()
        return outcome

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _ask(self, streamed: bool, leave: float | None) -> Outcome:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._load.port)
        reader, writer = self._streams
        left = False

        def go() -> None:
            nonlocal left
            left = True
            writer.transport.abort()

        writer.write(REQUESTS[streamed])
        leaving = None if leave is None else asyncio.get_running_loop().call_later(leave, go)
        begun = False
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            begun = True
            status = int(head[9:12])
            whole = await _rest(reader, head)
        except (asyncio.IncompleteReadError, OSError) as error:
            self.close()
            if left:
                return Outcome.LEFT
            if not begun and not getattr(error, "partial", b""):
                raise _Closed from None
            return Outcome.BROKEN
        finally:
            if leaving is not None:
                leaving.cancel()
        if left or b"\r\nconnection: close" in head:  # it may have left with all of the answer in its buffer
            self.close()
        if status >= 400:
            self._tally.statuses[status] += 1
            return Outcome.REFUSED
        return Outcome.ANSWERED if whole else Outcome.BROKEN


async def _rest(reader: asyncio.StreamReader, head: bytes) -> bool:
    """Read an answer to its end; whether it is what an engine calls whole. Raises IncompleteReadError."""
    at = head.find(b"content-length: ")
    if at >= 0:
        await reader.readexactly(int(head[at + 16 : head.index(b"\r", at)]))
        return True
    tail = b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        piece = await reader.read(READ)
        if not piece:
            raise asyncio.IncompleteReadError(tail, None)
        tail = (tail + piece)[-1000:]
    return b"data: [DONE]" in tail


async def run(load: Load, tally: Tally, told: Callable[[], None], until: asyncio.Event | None = None) -> None:
    """Send all of the load's requests, or until the event is set. `told` is called after each."""
    rng = Random(load.seed)
    left = load.requests

    async def one(client: Client) -> None:
        nonlocal left
        while left > 0 and not (until is not None and until.is_set()):
            left -= 1
            tally.outcomes[await client.send()] += 1
            told()
        client.close()

    clients = [Client(load, tally, Random(rng.random())) for _ in range(load.concurrency)]
    await asyncio.gather(*map(one, clients))


def shown(progress: Progress, task: TaskID) -> Callable[[], None]:
    return lambda: progress.advance(task)
