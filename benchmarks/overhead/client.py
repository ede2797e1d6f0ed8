"""The clients that wrk cannot be: an open loop at a fixed rate, and streams that are held open.

usage: client.py rate PORTS REQUESTS_A_SECOND SECONDS KB [stream]
       client.py hold PORTS STREAMS

`rate` sends requests at even intervals, whatever becomes of those before, and measures from when each was due, so that
no delay hides the next (what Gil Tene calls coordinated omission). It prints a JSON object of lists, in seconds:
`first` (to the first byte of the body), `whole` (to the last) and `gaps` (between two chunks of a stream).

`hold` opens so many streams, prints `open` once each has had its first event, and ends with its standard input.

PORTS are comma-separated; requests take them in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable

import uvloop

from llmgate.sim.http_engine.alarm import make_alarm

SYSTEM = "You are a helpful assistant, answer well. "
WARM = 1.0
"""Seconds at the beginning that are not counted: connections are made in them."""

WINDOW = 32
"""Connections that may be under way at once while streams are opened."""

OPENING = 20.0
"""Seconds that it may take to open all of them."""


def request(body: bytes) -> bytes:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: %d"
    )
    return head % len(body) + b"\r\n\r\n" + body


class Answer(asyncio.Protocol):
    """One connection, one answer at a time. `ended` is told the times at which pieces of the body came."""

    def __init__(self, ended: Callable[[Answer, list[float]], None], first: Callable[[], None] | None = None) -> None:
        self._ended = ended
        self._first = first
        self._head = b""
        self._left: int | None = None  # bytes of the body; None: it is chunked
        self._tail = b""
        self.times: list[float] = []
        self.failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is no subclass

    def ask(self, data: bytes) -> None:
        self._head, self._tail, self.times = b"", b"", []
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self._head.endswith(b"\r\n\r\n"):
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = head + end
            if not end:
                return
            self.failed = not head.startswith(b"HTTP/1.1 200")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._left = int(fields[b"content-length"]) if b"content-length" in fields else None
            if not data:
                return
        if self._first is not None and not self.times:
            self._first()
        self.times.append(time.monotonic())
        if self._left is not None:
            self._left -= len(data)
            whole = not self._left
        else:
            self._tail = (self._tail + data)[-5:]
            whole = self._tail == b"0\r\n\r\n"
        if whole:
            self._ended(self, self.times)

    def connection_lost(self, error: Exception | None) -> None:
        self.failed = True
        if self._first is not None and not self.times:
            self._first()


class OpenLoop:
    """Sends at even intervals, on connections that are free or new."""

    def __init__(self, ports: list[int], rate: float, seconds: float, make: Callable[[int], bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ports = itertools.cycle(ports)
        self._free: dict[int, list[Answer]] = {port: [] for port in ports}
        self._make = make
        self._interval = 1.0 / rate
        self._count = int((WARM + seconds) * rate)
        self._sent = 0
        self._open = 0
        self._due: dict[Answer, tuple[float, int]] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self.done = self._loop.create_future()
        self.figures: dict[str, list[float]] = {"first": [], "whole": [], "gaps": []}
        self.failed = 0
        self._started = time.monotonic() + 0.1
        self._alarm = make_alarm(self._loop, self._send)
        self._alarm.set(self._started)

    def _send(self) -> None:
        while self._sent < self._count and (due := self._started + self._sent * self._interval) <= time.monotonic():
            port, data = next(self._ports), self._make(self._sent)
            self._sent += 1
            self._open += 1
            if self._free[port]:
                self._ask(self._free[port].pop(), port, due, data)
            else:
                task = self._loop.create_task(self._connect(port, due, data))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
        if self._sent < self._count:
            self._alarm.set(self._started + self._sent * self._interval)

    async def _connect(self, port: int, due: float, data: bytes) -> None:
        _, answer = await self._loop.create_connection(lambda: Answer(self._ended), "127.0.0.1", port)
        self._ask(answer, port, due, data)

    def _ask(self, answer: Answer, port: int, due: float, data: bytes) -> None:
        self._due[answer] = due, port
        answer.ask(data)

    def _ended(self, answer: Answer, times: list[float]) -> None:
        due, port = self._due.pop(answer)
        self._open -= 1
        if answer.failed:
            self.failed += 1
        elif due - self._started >= WARM:
            self.figures["first"].append(times[0] - due)
            self.figures["whole"].append(times[-1] - due)
            self.figures["gaps"] += [later - earlier for earlier, later in itertools.pairwise(times)]
        if not answer.failed:
            self._free[port].append(answer)
        if self._sent == self._count and not self._open and not self.done.done():
            self.done.set_result(None)


async def at_rate(ports: list[int], rate: float, seconds: float, kb: int, stream: bool) -> None:
    system = SYSTEM * (kb * 1024 // len(SYSTEM))
    asked = {"stream": True, "max_tokens": 4} if stream else {}

    def make(number: int) -> bytes:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": f"question {number}"}]
        return request(json.dumps({"model": "m", **asked, "messages": messages}).encode())

    gc.freeze()
    gc.disable()
    loop = OpenLoop(ports, rate, seconds, make)
    async with asyncio.timeout(WARM + seconds + 10):
        await loop.done
    json.dump({**loop.figures, "failed": loop.failed}, sys.stdout)


async def hold(ports: list[int], streams: int) -> None:
    loop = asyncio.get_running_loop()
    body = json.dumps({"model": "m", "stream": True, "hold": True, "messages": [{"role": "user", "content": "hi"}]})
    window, begun = asyncio.Semaphore(WINDOW), 0
    everyone = loop.create_future()

    def first() -> None:
        nonlocal begun
        begun += 1
        window.release()
        if begun == streams and not everyone.done():
            everyone.set_result(None)

    kept: list[Answer] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPENING):
            for port in itertools.islice(itertools.cycle(ports), streams):
                await window.acquire()
                _, answer = await loop.create_connection(lambda: Answer(lambda *_: None, first), "127.0.0.1", port)
                answer.ask(request(body.encode()))
                kept.append(answer)
            await everyone
    good = everyone.done() and not any(answer.failed for answer in kept)
    print("open" if good else "failed", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    what, ports = sys.argv[1], [int(port) for port in sys.argv[2].split(",")]
    if what == "hold":
        uvloop.run(hold(ports, int(sys.argv[3])))
    else:
        rate, seconds, kb = float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
        uvloop.run(at_rate(ports, rate, seconds, kb, sys.argv[6:] == ["stream"]))


if __name__ == "__main__":
    main()
