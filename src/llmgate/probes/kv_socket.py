"""The ZeroMQ sockets of one source of KV events, on the event loop.

ZeroMQ's own thread receives; what is decoded and put into the index is done here, at most BYTES_PER_TURN at a time, so
that requests wait for no more than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import zmq

from llmgate.core.types import KvEventSource
from llmgate.probes.kv_stream import KvStream
from llmgate.wire.kv_events import KvEventError, live_message, replay_request, replayed_message

BYTES_PER_TURN = 16 * 1024
"""Some 280 blocks of 16 tokens; about half a millisecond (benchmarks/kv_events)."""

REPLAY_SECONDS = 5.0
"""A replay that brings nothing for so long has broken off."""

ATTEMPTS = 3
"""So many replays that broke off, one after the other, and no more are asked for."""

MAX_MESSAGES = 10_000
"""That wait to be read: as many as vLLM keeps for a replay, which is where those that are dropped come from."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
RECONNECT_MS, RECONNECT_MAX_MS = 100, 5_000
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5_000, 15_000


class KvSocket:
    """Opens at once; raises OSError when an address cannot be used. `warn` gets what is to be said about it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        stream: KvStream,
        source: KvEventSource,
        *,
        told_by_engine: bool,
        host: str,
        warn: Callable[[str], None],
    ) -> None:
        if told_by_engine:
            source = as_told(source, host)
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._warn = warn
        self._replay: zmq.Socket[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        self._replaying = False
        self._broken = 0  # replays
        self._live = context.socket(zmq.SUB)
        try:
            self._set_up(self._live, MAX_MESSAGES)
            self._live.subscribe(source.topic.encode())
            attach(self._live, source.endpoint, told_by_engine=told_by_engine, host=host)
            if source.replay is not None:
                self._replay = context.socket(zmq.DEALER)
                self._set_up(self._replay, 0)  # it is asked for, so all of it is wanted
                self._replay.connect(at_host(source.replay, host))
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"{source.endpoint}: {zmq.strerror(error.errno or 0)}") from None
        self._loop.add_reader(self._live.FD, self._read)
        if self._replay is not None:
            self._loop.add_reader(self._replay.FD, self._read)
            self._ask(0)
        self._read()

    def close(self) -> None:
        for handle in (self._timer, self._turn):
            if handle is not None:
                handle.cancel()
        for socket in (self._live, self._replay):
            if socket is not None and not socket.closed:
                self._loop.remove_reader(socket.FD)
                socket.close(linger=0)
        self._stream.close()

    @staticmethod
    def _set_up(socket: zmq.Socket[bytes], most: int) -> None:
        socket.rcvhwm = most
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.IPV6, 1)

    def _read(self) -> None:
        """Deal with what has come. ZeroMQ's descriptor tells of a change once, so nothing may be left unread unless
        there is another turn to come, or a replay whose end brings one."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        left = BYTES_PER_TURN
        while left > 0:
            socket = self._replay if self._replaying else self._live
            assert socket is not None
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            left -= sum(map(len, frames))
            try:
                if self._replaying:
                    self._replayed(frames)
                elif (start := self._stream.take(live_message(frames))) is not None:
                    self._ask(start)
            except KvEventError as error:
                self._stream.unreadable(error)
        self._turn = self._loop.call_soon(self._read)

    # Replays: live messages wait unread until one has ended

    def _ask(self, start: int) -> None:
        assert self._replay is not None
        self._stream.replay_from(start)
        self._replaying = True
        self._replay.send_multipart(replay_request(start), zmq.NOBLOCK)
        self._patience()

    def _replayed(self, frames: list[bytes]) -> None:
        message = replayed_message(frames)
        if message is not None:
            self._stream.replayed(message)
            self._patience()
            return
        self._broken = 0
        self._end_replay(whole=True)

    def _patience(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(REPLAY_SECONDS, self._broke_off)

    def _broke_off(self) -> None:
        self._broken += 1
        if self._broken >= ATTEMPTS:
            self._stream.can_replay = False
            self._warn("it does not answer when missed KV events are asked for: they are lost from now on")
        self._end_replay(whole=False)
        self._read()

    def _end_replay(self, *, whole: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._replaying = False
        self._stream.replay_ended(whole=whole)


def attach(socket: zmq.Socket[bytes], address: str, *, told_by_engine: bool, host: str) -> None:
    """Connect to an address or bind it.

    In the configuration an address is meant as ZeroMQ means it: `*` is bound, everything else connected to. What the
    engine tells is meant as its publisher does (vLLM's ZmqEventPublisher): it binds wildcards and local names itself.
    An address with a host it has either connected to, or bound as one of its own when its port was 0: if we can bind
    it, it is ours. A name says nothing of the kind, and is taken for ours.
    """
    if not told_by_engine:
        socket.bind(address) if "*" in address else socket.connect(address)
        return
    if "*" in address or "::" in address or not address.startswith("tcp://"):
        socket.connect(at_host(address, host))
        return
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENODEV):
            raise
        if _is_number(urlsplit(address).hostname or ""):
            socket.connect(address)
        else:
            socket.bind(f"tcp://*:{urlsplit(address).port}")


def as_told(source: KvEventSource, host: str) -> KvEventSource:
    """What an engine tells, as far as it is followed. Its replays it binds itself: a name in their address is its own
    of itself, and not ours to look up. Raises OSError for an address that it may not send us to."""
    _refuse_link_local(source.endpoint, host)
    if source.replay is None:
        return source
    _refuse_link_local(source.replay, host)
    parts = urlsplit(source.replay)
    named = parts.scheme == "tcp" and "*" not in source.replay and not _is_number(parts.hostname or "")
    return replace(source, replay=f"tcp://*:{parts.port}") if named else source


def _refuse_link_local(address: str, host: str) -> None:
    """An engine may not send us to the metadata service of our machine's cloud. Raises OSError."""
    told = urlsplit(address).hostname or ""
    with contextlib.suppress(ValueError):  # a name, or a wildcard
        if told != host and ipaddress.ip_address(told).is_link_local:
            raise OSError(errno.EACCES, f"{address}: it is link-local, and not the host of the endpoint's URL")


def at_host(address: str, host: str) -> str:
    """Of an address that is bound on `host`: where it is reached from here."""
    scheme, _, rest = address.partition("://")
    if scheme != "tcp":
        return address
    bound, _, port = rest.rpartition(":")
    if bound not in ("*", "[::]", "::", "0.0.0.0"):
        return address
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"


def _is_number(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
