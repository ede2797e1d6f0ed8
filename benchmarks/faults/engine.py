"""One fake engine in a process of its own, which can be made to misbehave.

usage: engine.py ADDRESS PORT CHUNKS SECONDS_BETWEEN_CHUNKS

SIGUSR1 makes it ten times slower, or as fast as before; SIGUSR2 makes it reset every third stream and answer, or none.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys

import uvloop

from benchmarks.overhead.fake_engines import Answers, Engine

SLOWNESS = 10.0


class Faults:
    """What is wrong at the moment."""

    def __init__(self) -> None:
        self.resets = False
        self._numbers = itertools.count()

    def toggle_resets(self) -> None:
        self.resets = not self.resets

    def reset_this(self) -> bool:
        return self.resets and next(self._numbers) % 3 == 0


class FaultyEngine(Engine):
    def __init__(self, answers: Answers, faults: Faults) -> None:
        super().__init__(answers)
        self._faults = faults

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST") and self._faults.reset_this():
            # before the answer, or, of a stream, in its middle
            self._loop.call_later(2 * self._answers.gap, self._transport.abort)
            if b'"stream":true' not in body:
                return
        super()._answer(head, body)


async def main(address: str, port: int, answers: Answers) -> None:
    loop, faults, gap = asyncio.get_running_loop(), Faults(), answers.gap

    def toggle_slowness() -> None:
        answers.gap = gap * SLOWNESS if answers.gap == gap else gap

    loop.add_signal_handler(signal.SIGUSR1, toggle_slowness)
    loop.add_signal_handler(signal.SIGUSR2, faults.toggle_resets)
    server = await loop.create_server(lambda: FaultyEngine(answers, faults), address, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), Answers(int(sys.argv[3]), float(sys.argv[4]))))
