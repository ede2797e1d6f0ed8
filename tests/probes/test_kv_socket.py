"""Rules of probes/kv_socket.py, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
import zmq

from llmgate.core.blocks import BlockIndex
from llmgate.core.types import KvEventSource
from llmgate.probes import kv_socket
from llmgate.probes.kv_socket import ATTEMPTS, KvSocket, as_told, at_host
from llmgate.probes.kv_stream import KvStream
from tests.core import make
from tests.probes.kv_make import keys, stored
from tests.probes.kv_publisher import Publisher, until


class Following:
    def __init__(self) -> None:
        self.context = zmq.Context[zmq.Socket[bytes]]()
        self.index = BlockIndex()
        self.sockets: list[KvSocket] = []
        self.warned: list[str] = []

    def open(self, publisher: Publisher | str, *, told_by_engine: bool = False) -> KvSocket:
        source = (
            KvEventSource(publisher)
            if isinstance(publisher, str)
            else KvEventSource(publisher.endpoint, publisher.replay, "kv")
        )
        stream = KvStream(self.index, make.endpoint("e", slot=0), lambda: 0.0, can_replay=source.replay is not None)
        socket = KvSocket(
            self.context,
            stream,
            source,
            told_by_engine=told_by_engine,
            host="127.0.0.1",
            warn=self.warned.append,
        )
        self.sockets.append(socket)
        return socket

    def holds(self, blocks: int) -> bool:
        return self.index.matched(keys()).get(0, 0) == blocks


@pytest.fixture
def following() -> Iterator[Following]:
    made = Following()
    yield made
    for socket in made.sockets:
        socket.close()
    made.context.destroy(linger=0)


async def test_events_of_an_engine_that_binds_are_followed(following: Following) -> None:
    with Publisher() as engine:
        following.open(engine)
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))


async def test_an_engine_may_connect_to_us(following: Following) -> None:
    port = free_port()
    following.open(f"tcp://*:{port}")
    with Publisher(address=f"tcp://127.0.0.1:{port}", topic=b"") as engine:
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_told_by_the_engine_is_bound_if_it_is_ours(following: Following, host: str) -> None:
    port = free_port()
    following.open(f"tcp://{host}:{port}", told_by_engine=True)
    with Publisher(address=f"tcp://127.0.0.1:{port}", topic=b"") as engine:
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))


async def test_an_address_told_by_the_engine_is_connected_to_if_it_is_the_engines(following: Following) -> None:
    with Publisher() as engine:
        following.open(engine, told_by_engine=True)
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))


async def test_what_was_told_before_we_came_is_replayed(following: Following) -> None:
    with Publisher(replays=True) as engine:
        engine.publish(stored(0, 2), lost=True)
        following.open(engine)
        assert await engine.serve_replay() == 0
        await engine.wait()
        await until(lambda: following.holds(2))
        engine.publish(stored(2, 4))
        await until(lambda: following.holds(4))
        assert following.index.complete(0)


async def test_what_was_lost_on_the_way_is_replayed(following: Following) -> None:
    with Publisher(replays=True) as engine:
        following.open(engine)
        assert await engine.serve_replay() == 0
        await engine.wait()
        engine.publish(stored(0, 1))
        engine.publish(stored(1, 2), lost=True)
        engine.publish(stored(2, 3))
        assert await engine.serve_replay() == 1
        engine.publish(stored(3, 4))
        await until(lambda: following.holds(4))


async def test_live_messages_wait_while_a_replay_is_under_way(following: Following) -> None:
    with Publisher(replays=True) as engine:
        following.open(engine)
        await engine.wait()
        engine.publish(stored(0, 1))
        engine.publish(stored(1, 2))
        for _ in range(100):
            await asyncio.sleep(0)
        assert following.holds(0)
        await engine.serve_replay()
        engine.publish(stored(2, 3))
        await until(lambda: following.holds(3))


async def test_a_replay_that_nobody_answers_is_given_up_and_live_events_go_on(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_socket, "REPLAY_SECONDS", 0.0)
    with Publisher(replays=True) as engine:
        following.open(engine)
        await engine.wait()
        for attempt in range(ATTEMPTS + 1):
            engine.publish(stored(0, 1))
            await until(partial(reached, following, "stored", attempt + 1))
            engine.publish(lost=True)
            engine.publish()  # a gap: asks for a replay, while there is hope
            await until(partial(reached, following, "replay", min(attempt + 2, ATTEMPTS)))
        assert following.index.counts[0]["replay"] == ATTEMPTS
        assert len(following.warned) == 1


async def test_much_at_once_is_dealt_with_in_turns(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_socket, "BYTES_PER_TURN", 1)
    with Publisher() as engine:
        following.open(engine)
        await engine.wait()
        for block in range(20):
            engine.publish(stored(block, block + 1))
        await until(lambda: following.holds(20))


async def test_garbage_does_not_end_it(following: Following) -> None:
    with Publisher() as engine:
        following.open(engine)
        await engine.wait()
        engine.send(b"only one frame")
        engine.send(bytes(8), b"\xc1")
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))
        assert following.index.counts[0]["garbage"] == 2


async def test_closing_unsubscribes_and_forgets(following: Following) -> None:
    with Publisher(replays=True) as engine:
        socket = following.open(engine)
        await engine.serve_replay()
        await engine.wait()
        engine.publish(stored(0, 3))
        await until(lambda: following.holds(3))
        socket.close()
        await engine.gone()
        assert following.holds(0)
        assert following.index.sources(0) == []


async def test_an_address_that_cannot_be_used_is_refused(following: Following) -> None:
    with Publisher() as engine, pytest.raises(OSError, match=r"in use|No such device"):
        following.open(engine.endpoint.replace("127.0.0.1", "*"))
    assert following.index.sources(0) == []


@pytest.mark.parametrize(
    ("bound", "host", "reached"),
    [
        ("tcp://*:5557", "node-a", "tcp://node-a:5557"),
        ("tcp://*:5557", "fd00::1", "tcp://[fd00::1]:5557"),
        ("tcp://[::]:5557", "node-a", "tcp://node-a:5557"),
        ("tcp://0.0.0.0:5557", "node-a", "tcp://node-a:5557"),
        ("tcp://10.0.0.7:5557", "node-a", "tcp://10.0.0.7:5557"),
        ("ipc:///run/kv", "node-a", "ipc:///run/kv"),
    ],
)
def test_what_is_bound_on_all_addresses_is_reached_on_the_endpoints_host(bound: str, host: str, reached: str) -> None:
    assert at_host(bound, host) == reached


@pytest.mark.parametrize("address", ["tcp://169.254.169.254:80", "tcp://[fe80::1]:5557"])
def test_an_engine_cannot_send_us_to_a_link_local_address(address: str) -> None:
    with pytest.raises(OSError, match="link-local"):
        as_told(KvEventSource(address), "10.0.0.7")
    with pytest.raises(OSError, match="link-local"):
        as_told(KvEventSource("tcp://*:5557", address), "10.0.0.7")


def test_a_link_local_host_of_the_endpoint_itself_is_reached() -> None:
    told = KvEventSource("tcp://169.254.1.2:5557", "tcp://169.254.1.2:5558")
    assert as_told(told, "169.254.1.2") == told


@pytest.mark.parametrize(
    ("told", "followed"),
    [
        ("tcp://metadata.internal:80", "tcp://*:80"),
        ("tcp://*:5558", "tcp://*:5558"),
        ("tcp://10.0.0.7:5558", "tcp://10.0.0.7:5558"),
        ("tcp://[::]:5558", "tcp://[::]:5558"),
        ("ipc:///run/kv", "ipc:///run/kv"),
    ],
)
def test_a_name_that_an_engine_tells_for_replays_is_not_looked_up(told: str, followed: str) -> None:
    assert as_told(KvEventSource("tcp://*:5557", told), "node-a").replay == followed


def reached(following: Following, count: str, number: int) -> bool:
    return following.index.counts[0][count] >= number


def free_port() -> int:
    with zmq.Context[zmq.Socket[bytes]]() as context, context.socket(zmq.PUB) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")
