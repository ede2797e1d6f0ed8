from __future__ import annotations

import errno
import logging
import socket

import pytest

from llmgate.gateway.server import PortInUse, bind, quiet_uvicorn
from tests.support.fake_engine import FakeEngine, completion
from tests.support.raw_client import post
from tests.support.serving import HELLO, serving

BOTH_LOOPS = True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_port_0_takes_a_free_port(host: str) -> None:
    with bind(host, 0) as listener:
        with socket.create_connection((host, listener.getsockname()[1]), timeout=5):
            pass
        assert not listener.getblocking()


def test_a_port_is_free_again_right_after_its_last_connection() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            listener.accept()[0].close()  # ours is closed first: it is the side that waits out TIME_WAIT
    bind("127.0.0.1", port).close()


def test_a_port_in_use_says_so_and_what_to_do() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse) as caught:
            bind("127.0.0.1", port)
    assert str(caught.value) == f"127.0.0.1:{port} is in use by another program: choose another port"


def test_a_shared_port_is_one_for_all_who_share_it_and_for_nobody_else() -> None:
    with bind("127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        first.listen()
        bind("127.0.0.1", port, shared=True).close()
        with pytest.raises(PortInUse):
            bind("127.0.0.1", port)


def test_a_shared_port_takes_no_connection_before_it_is_served() -> None:
    with bind("127.0.0.1", 0, shared=True) as listener, socket.socket() as client:
        assert client.connect_ex(listener.getsockname()) == errno.ECONNREFUSED


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_one_sentence(host: str) -> None:
    with pytest.raises(OSError, match=f"^cannot listen on {host}:0: "):
        bind(host, 0)


def test_uvicorn_says_nothing_of_what_is_no_error_of_the_application(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(log, "filters", [])
    monkeypatch.setattr(log, "level", logging.NOTSET)
    quiet_uvicorn()
    log.info("Started server process")
    log.error("ASGI callable returned without completing response.")
    log.error("Exception in ASGI application")
    assert caplog.messages == ["Exception in ASGI application"]


async def test_connections_that_wait_to_be_accepted_are_answered_before_the_listener_closes() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        with socket.create_connection(("127.0.0.1", served.gateway.data_port)) as client:
            client.sendall(post(HELLO))  # the loop has had no turn to accept it
            await served.gateway._data.shutdown([])
            assert client.recv(12) == b"HTTP/1.1 200"
