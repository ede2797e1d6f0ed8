"""KV events over ZeroMQ as vLLM 0.32 sends them (vllm/distributed/kv_events.py, ZmqEventPublisher)."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import msgspec
import zmq

from llmgate.sim.http_engine.kv_events import Event, EventBatch
from llmgate.sim.http_engine.settings import KvEventsConfig

END_OF_REPLAY = b"\xff" * 8  # -1
SEQUENCE_BYTES = 8  # big-endian


def binds(endpoint: str) -> bool:
    """vLLM's rule: wildcards, IPv6 and local addresses are bound, all others connected to."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


class Publisher:
    """Sends batches to all that have subscribed, and again, from the last `buffer_steps`, to those that ask.

    Nothing here waits: ZeroMQ has its own thread, and drops what a slow subscriber does not take.
    Raises OSError if an address cannot be had.
    """

    def __init__(self, config: KvEventsConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._topic = config.topic.encode()
        self._sequence = 0
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        self._encoder = msgspec.msgpack.Encoder()
        self._loop = loop
        self._context = zmq.Context()
        self._replay: zmq.Socket[bytes] | None = None
        try:
            self._publish = self._socket(zmq.PUB, config.endpoint, bind=binds(config.endpoint), hwm=config.hwm)
            if config.replay_endpoint is not None:
                self._replay = self._socket(zmq.ROUTER, config.replay_endpoint, bind=True, hwm=0)
                loop.add_reader(self._replay.FD, self._answer)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(error.errno, f"{error.strerror} (of {config.endpoint}, {config.replay_endpoint})") from None

    def publish(self, events: list[Event]) -> None:
        payload = self._encoder.encode(EventBatch(time.time(), events))
        sequence = self._sequence.to_bytes(SEQUENCE_BYTES, "big")
        self._sequence += 1
        self._sent.append((sequence, payload))
        self._publish.send_multipart((self._topic, sequence, payload), zmq.NOBLOCK)

    def close(self) -> None:
        if self._replay is not None:
            self._loop.remove_reader(self._replay.FD)
        self._context.destroy(linger=0)

    def _socket(self, kind: int, endpoint: str, *, bind: bool, hwm: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.set_hwm(hwm)
        if "::" in endpoint or "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
        return socket

    def _answer(self) -> None:
        """ZeroMQ's descriptor tells of a change once: everything that has come must be looked at."""
        assert self._replay is not None
        while self._replay.poll(0):
            frames = self._replay.recv_multipart(zmq.NOBLOCK)
            if len(frames) == 3:
                client, _, start = frames
                self._resend(client, start)

    def _resend(self, client: bytes, start: bytes) -> None:
        assert self._replay is not None
        wanted = int.from_bytes(start, "big")
        for sequence, payload in self._sent:
            if int.from_bytes(sequence, "big") >= wanted:
                self._replay.send_multipart((client, b"", self._topic, sequence, payload), zmq.NOBLOCK)
        self._replay.send_multipart((client, b"", b"", END_OF_REPLAY, b""), zmq.NOBLOCK)
