"""A client that adds little to what it measures: one connection a request at a time, times taken as bytes arrive."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

import msgspec

TOKEN = b'"delta":{"content":"'
END = b"data: [DONE]"


@dataclass(slots=True)
class Sample:
    """Seconds of the wall, and what the engine says of the same request in its own."""

    tokens: int
    ttft: float
    tpot: float
    modelled_ttft: float
    modelled_tpot: float


class Client(asyncio.Protocol):
    """A kept connection to one engine."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._done: asyncio.Future[Sample] | None = None
        self._received = bytearray()
        self._sent = self._first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._received += data
        if not self._first and TOKEN in data:
            self._first = now
        if END in self._received[-200:] and self._done is not None:
            done, self._done = self._done, None
            done.set_result(self._sample(now))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the engine closed the connection"))

    async def send(self, request: bytes) -> Sample:
        self._received = bytearray()
        self._first = 0.0
        done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._done = done
        self._sent = time.monotonic()
        self.transport.write(request)
        return await done

    def _sample(self, now: float) -> Sample:
        text = bytes(self._received)
        usage = msgspec.json.decode(
            b"{" + text[text.rindex(b'"usage":') : text.rindex(b',"system_fingerprint"')] + b"}"
        )
        told, tokens = usage["usage"]["x_sim"], usage["usage"]["completion_tokens"]
        return Sample(
            tokens, self._first - self._sent, (now - self._first) / (tokens - 1), told["ttft_s"], told["tpot_s"]
        )


def request(prompt_tokens: int, output_tokens: int, salt: int) -> bytes:
    """A streamed chat of about so many tokens (four bytes each) that shares its beginning with no other."""
    text = f"{salt:08x}" + "word" * max(1, prompt_tokens - 10)
    body = msgspec.json.encode(
        {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\nx-sim-times: 1\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
