"""An engine's publisher of KV events on real sockets, as vLLM's ZmqEventPublisher is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

import zmq

from llmgate.wire.kv_events import END_OF_REPLAY, SEQUENCE_BYTES
from tests.probes.kv_make import message


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


class Publisher:
    """Binds free ports of 127.0.0.1, or connects to `address`. Nothing is sent before `wait` has seen a subscriber."""

    def __init__(self, *, address: str | None = None, topic: bytes = b"kv", replays: bool = False) -> None:
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._live = self._context.socket(zmq.XPUB)
        self._topic = topic
        self.sequence = 0
        self.kept: list[tuple[int, bytes]] = []
        self.replay: str | None = None
        self.asked: list[int] = []
        self.answers = True
        if address is None:
            self._live.bind("tcp://127.0.0.1:*")
            self.endpoint = self._live.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            self._live.connect(address)
            self.endpoint = address
        if replays:
            self._router = self._context.socket(zmq.ROUTER)
            self._router.bind("tcp://127.0.0.1:*")
            self.replay = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    @property
    def said(self) -> dict[str, Any]:
        """Of this rank in the answer to GET /kv_event_sources."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "replay_endpoint": self.replay,
            "topic": self._topic.decode(),
        }

    async def wait(self) -> None:
        """Until somebody has subscribed."""
        await until(lambda: self._live.poll(0))
        assert self._live.recv() == b"\x01" + self._topic

    async def gone(self) -> None:
        """Until nobody is subscribed any more."""
        await until(lambda: self._live.poll(0))
        assert self._live.recv() == b"\x00" + self._topic

    def publish(self, *events: Any, lost: bool = False) -> None:
        payload = message(self.sequence, *events).payload
        self.kept.append((self.sequence, payload))
        if not lost:
            self.send(self.sequence.to_bytes(SEQUENCE_BYTES, "big"), payload)
        self.sequence += 1

    def send(self, *frames: bytes) -> None:
        self._live.send_multipart([self._topic, *frames])

    async def serve_replay(self) -> int:
        """Answer one request for a replay; returns where it was to begin."""
        await until(lambda: self._router.poll(0))
        client, _, start = self._router.recv_multipart()
        wanted = int.from_bytes(start, "big")
        for sequence, payload in self.kept:
            if sequence >= wanted:
                self._router.send_multipart(
                    [client, b"", self._topic, sequence.to_bytes(SEQUENCE_BYTES, "big"), payload]
                )
        self._router.send_multipart([client, b"", b"", END_OF_REPLAY, b""])
        return wanted
