"""Fake engines whose GET /metrics is a recorded page of vLLM, gzip'd.

usage: python -m benchmarks.observability.engines FIRST_PORT COUNT PAGE
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path

import uvloop

from benchmarks.overhead.fake_engines import Answers, Engine


class Measured(Engine):
    """`page` is what /metrics says."""

    def __init__(self, answers: Answers, page: bytes) -> None:
        super().__init__(answers)
        self._page = page

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /metrics "):
            self._transport.write(self._page)
        else:
            super()._answer(head, body)


async def main(first_port: int, count: int, text: bytes) -> None:
    loop, answers = asyncio.get_running_loop(), Answers(100, 0.01)
    page = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
    servers = [
        await loop.create_server(lambda: Measured(answers, page), "127.0.0.1", first_port + number, backlog=4096)
        for number in range(count)
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), gzip.decompress(Path(sys.argv[3]).read_bytes())))
