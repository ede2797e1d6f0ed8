"""A scripted engine behind a gateway: it answers the gateway's probes by itself, so that tests see only requests."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmgate.testing.fake_upstream import (
    LAST_CHUNK,
    STREAM_HEAD,
    FakeUpstream,
    Handler,
    ReceivedRequest,
    Script,
    answer,
    chunk,
)

PATIENCE = 5.0
DONE = b"data: [DONE]\n\n"
JSON = (b"content-type", b"application/json")


def sse(*payloads: Any) -> list[bytes]:
    """An event for each JSON payload, and [DONE]."""
    return [*(b"data: %b\n\n" % json.dumps(payload).encode() for payload in payloads), DONE]


def stream(*events: bytes) -> list[bytes]:
    """A whole streamed answer: head, a chunk for each of `events`, the end."""
    return [STREAM_HEAD, *map(chunk, events), LAST_CHUNK]


def completion(text: str = "hello", prompt_tokens: int = 7, completion_tokens: int = 3) -> bytes:
    """A whole answer to a chat request that is not streamed, as raw bytes."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    return answer(json.dumps({"id": "x", "choices": choices, "usage": usage}).encode(), headers=[JSON])


def in_turn(*scripts: Script) -> Handler:
    """The n-th request gets the n-th script, the last one all further requests; share it between engines."""
    left = list(scripts)

    async def handle(request: ReceivedRequest) -> None:
        await request.run(left.pop(0) if len(left) > 1 else left[0])

    return handle


class FakeEngine(FakeUpstream):
    """`behaviour` is for inference requests: None (the test answers), a script for each, or a handler."""

    def __init__(
        self,
        behaviour: Script | Handler | None = None,
        *,
        models: Sequence[str] = ("m",),
        port: int = 0,
        unix: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(self._handle, port=port, unix=unix, tls=tls, patience=PATIENCE)
        self.models = models
        self.healthy = True
        self.asked: list[ReceivedRequest] = []  # inference requests
        self.probed: list[ReceivedRequest] = []
        self._inference = behaviour
        self._asked: asyncio.Queue[ReceivedRequest] = asyncio.Queue()

    async def request(self) -> ReceivedRequest:
        """The next inference request; waits for it."""
        return await self._wait(self._asked.get(), "no (further) inference request came")

    async def _handle(self, request: ReceivedRequest) -> None:
        if request.method == b"GET":
            self.probed.append(request)
            await request.send(self._page(request.path))
            request.connection.close()  # or a request would come on a kept connection, and be repeated if that broke
            return
        self.asked.append(request)
        self._asked.put_nowait(request)
        if callable(self._inference):
            await self._inference(request)
        elif self._inference is not None:
            await request.run(self._inference)

    def _page(self, path: bytes) -> bytes:
        if not self.healthy:
            return answer(b"", 503)
        if path == b"/health":
            return answer()
        if path == b"/v1/models":
            listed = [{"id": model, "object": "model", "owned_by": "vllm"} for model in self.models]
            return answer(json.dumps({"object": "list", "data": listed}).encode(), headers=[JSON])
        if path == b"/metrics":
            return answer(b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")
        return answer(b"", 404)


async def gone(request: ReceivedRequest) -> None:
    """Waits until the gateway has closed the connection that this request came on."""
    async with asyncio.timeout(PATIENCE):
        await request.connection.closed.wait()


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits for something that nothing announces. AssertionError after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"it did not come about within {seconds:g} s"
        await asyncio.sleep(0.005)
