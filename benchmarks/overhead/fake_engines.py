"""Fake engines that are never the bottleneck: fixed answers, no JSON parsing.

usage: fake_engines.py FIRST_PORT COUNT CHUNKS SECONDS_BETWEEN_CHUNKS

A POST with "stream": true in its body gets an SSE stream of CHUNKS chunks, or "max_tokens" of them, with a usage chunk
and [DONE]; with "hold": true it gets one chunk at once and no end. Any other POST gets a chat completion of 1 KB.
GET /v1/models lists the model `m`, every other GET is answered 200.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

MODELS = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"bench"}]}'
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1694268190,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}]}\n\n'
)
MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def json_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Answers:
    """What every engine says, made once."""

    def __init__(self, chunks: int, gap: float) -> None:
        usage = b'"usage":{"prompt_tokens":300,"completion_tokens":%d,"total_tokens":%d}' % (chunks, 300 + chunks)
        self.chunks = chunks
        self.gap = gap
        self.whole = json_answer(
            b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
            b'{"role":"assistant","content":"' + b"x" * 800 + b'"},"finish_reason":"stop"}],' + usage + b"}"
        )
        self.models = json_answer(MODELS)
        self.event = chunk(EVENT)
        last = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
        self.end = chunk(last + usage + b"}\n\ndata: [DONE]\n\n") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._buffer = b""
        self._left = 0  # chunks to send
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (cut := self._request_end()) is not None:
            body_start, end = cut
            head, body = self._buffer[:body_start], self._buffer[body_start:end]
            self._buffer = self._buffer[end:]
            self._answer(head, body)

    def _request_end(self) -> tuple[int, int] | None:
        """Where the body of the first buffered request begins and ends; None if it is not whole yet."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        start = head_end + 4
        head = self._buffer[:start].lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            end = start + int(head[at + 17 : head.find(b"\r\n", at + 2)])
            return (start, end) if len(self._buffer) >= end else None
        if b"\r\ntransfer-encoding: chunked" in head:
            last = self._buffer.find(b"0\r\n\r\n", start)
            return None if last < 0 else (start, last + 5)
        return start, start

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self._transport.write(self._answers.models)
        elif b'"stream": true' in body or b'"stream":true' in body:
            self._transport.write(STREAM_HEAD)
            if b'"hold": true' in body:
                self._transport.write(self._answers.event)
                return
            wanted = MAX_TOKENS.search(body)
            self._left = int(wanted[1]) if wanted else self._answers.chunks
            self._loop.call_later(self._answers.gap, self._tick)
        else:
            self._transport.write(self._answers.whole)

    def _tick(self) -> None:
        if self._transport.is_closing():
            return
        if self._left:
            self._left -= 1
            self._transport.write(self._answers.event)
            self._loop.call_later(self._answers.gap, self._tick)
        else:
            self._transport.write(self._answers.end)


async def main(first_port: int, count: int, answers: Answers) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Engine(answers), "127.0.0.1", first_port + number, backlog=4096)
        for number in range(count)
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), Answers(int(sys.argv[3]), float(sys.argv[4]))))
