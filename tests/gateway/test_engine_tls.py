"""TLS with engines, by real handshakes: requests, probes and readings of metrics alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmgate.config import ConfigFile, from_data
from llmgate.core.health import State
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, chunk
from llmgate.upstream.native import NativeClient
from tests.support.certificates import Authority, Pair
from tests.support.fake_engine import DONE, FakeEngine, completion, until
from tests.support.raw_client import connect, post
from tests.support.serving import STREAMED, Served, config_data, serving

BOTH_LOOPS = True

EVENT = b'data: {"n": 1}\n\n'
QUICK = {"watch": 0.01}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "own")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


def wanting(pair: Pair, clients: Authority) -> ssl.SSLContext:
    """Of an engine that shows `pair` and wants a certificate of `clients`."""
    context = pair.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(clients.ca)
    return context


async def reason(served: Served) -> str:
    """Why the endpoint is not up, after its first probe."""
    [endpoint] = served.gateway.pool
    await until(lambda: endpoint.health.reason != "not probed yet")
    assert endpoint.health.state is State.STARTING
    return endpoint.health.reason


async def test_probes_readings_and_requests_go_over_the_same_tls(authority: Authority) -> None:
    async with FakeEngine([completion()], tls=authority.issue().server()) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca)}}
        assert engine.url.startswith("https:")
        async with serving(endpoint) as served:
            assert (await served.chat()).status_code == 200
            await until(lambda: {b"/health", b"/v1/models", b"/metrics"} <= {each.path for each in engine.probed})


@pytest.mark.parametrize(
    ("names", "days", "tls", "said"),
    [
        ((), -1, {}, "the certificate was refused: certificate has expired"),
        (("other.example",), 9, {}, "certificate is not valid for '127.0.0.1'; if that is its right name, set tls"),
        ((), 9, {"ca": None}, "unable to get local issuer certificate; if it is of your own authority, set tls.ca"),
        ((), 9, {"server_name": "other.example"}, "certificate is not valid for 'other.example'"),
    ],
    ids=["expired", "wrong host", "unknown authority", "wrong name asked for"],
)
async def test_why_a_certificate_was_refused_is_the_reason_that_an_engine_is_not_up(
    authority: Authority, names: tuple[str, ...], days: int, tls: dict[str, Any], said: str
) -> None:
    async with FakeEngine(tls=authority.issue(*names, days=days).server()) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca)} | tls}
        async with serving(endpoint, wait=False) as served:
            assert said in await reason(served)
            answer = await served.chat()
            assert answer.status_code in (404, 503)  # its models are not known
            shown = (await served.admin.get("/api/endpoints")).json()
            assert said in shown[0]["reason"]
        assert not engine.requests


async def test_an_engine_that_does_not_speak_tls_is_said_so() -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with serving(f"https://127.0.0.1:{port}", wait=False) as served:
            assert "the other side does not speak TLS: is it http?" in await reason(served)


async def test_a_name_other_than_the_urls_can_be_asked_for(authority: Authority) -> None:
    server = authority.issue("engine.internal").server()
    asked: list[str] = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    async with FakeEngine([completion()], tls=server) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca), "server_name": "engine.internal"}}
        async with serving(endpoint) as served:
            assert (await served.chat()).status_code == 200
        assert set(asked) == {"engine.internal"}
        assert engine.asked[0].header("host") == engine.url.removeprefix("https://").encode()


async def test_a_check_that_is_left_out_is_told_loudly(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        FakeEngine([completion()], tls=authority.issue("other.example", days=-1).server()) as engine,
        serving({"url": engine.url, "tls": {"insecure_skip_verify": True}}) as served,
    ):
        assert (await served.chat()).status_code == 200
    assert caplog.text.count("a: its certificate is NOT checked (tls.insecure_skip_verify)") == 1


# The gateway's own certificate


async def test_an_engine_that_wants_a_certificate_gets_it(authority: Authority) -> None:
    client = authority.issue("gateway", file="client")
    async with FakeEngine([completion()], tls=wanting(authority.issue(), authority)) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca), **client.settings}}
        async with serving(endpoint) as served:
            assert (await served.chat()).status_code == 200
            name = 'llmgate_tls_certificate_expiry_timestamp_seconds{endpoint="a",section="endpoints.tls"}'
            assert await served.metric(name) > 0


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_it_the_engine_is_not_up_and_that_may_be_why(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    tls = wanting(authority.issue(), authority)
    tls.maximum_version = version
    async with FakeEngine(tls=tls) as engine:
        async with serving({"url": engine.url, "tls": {"ca": str(authority.ca)}}, wait=False) as served:
            assert "tls.certificate" in await reason(served)
        assert not engine.requests


@contextmanager
def sending_alerts(tls: ssl.SSLContext) -> Iterator[str]:
    """The URL of an engine that says why it refuses a handshake, which asyncio's servers do not."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                with contextlib.suppress(OSError):
                    secure.do_handshake()
                with contextlib.suppress(OSError):
                    while socket.socket.recv(secure, 65536):  # a close before the end would cost the peer the alert
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RD)
            thread.join()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (
            "none",
            r"the engine wants a certificate of the gateway's: set tls\.certificate|the engine refused the handshake",
        ),
        ("unknown", "refuses the gateway's certificate .*: it does not know its authority"),
        ("expired", "refuses the gateway's certificate .*: it has expired"),
    ],
)
async def test_what_an_engine_says_of_the_gateways_certificate_is_the_reason(
    authority: Authority, stranger: Authority, version: ssl.TLSVersion, certificate: str, said: str
) -> None:
    shown: dict[str, Any] = {
        "none": {},
        "unknown": stranger.issue("gateway", file="client").settings,
        "expired": authority.issue("gateway", file="client", days=-1).settings,
    }[certificate]
    tls = wanting(authority.issue(), authority)
    tls.maximum_version = version
    with sending_alerts(tls) as url:
        async with serving({"url": url, "tls": {"ca": str(authority.ca)} | shown}, wait=False) as served:
            assert re.search(said, await reason(served))


# Renewal


async def test_a_new_authority_is_taken_in_while_a_stream_over_the_old_one_goes_on(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    context = authority.issue().server()
    async with FakeEngine(tls=context) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca)}}
        async with (
            serving(endpoint, reload=QUICK, health={"interval": 0.05}) as served,
            connect(served.gateway.data_port) as client,
        ):
            [before] = served.gateway.pool
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD, chunk(EVENT))
            await client.head()
            authority.ca.write_bytes(stranger.ca.read_bytes())
            pair = stranger.issue()
            context.load_cert_chain(pair.certificate, pair.key)
            await until(lambda: "a: new connections are made with the changed files" in caplog.text)
            asking = asyncio.create_task(served.chat())
            await (await engine.request()).send(completion())
            assert (await asking).status_code == 200
            await request.send(chunk(DONE), LAST_CHUNK)
            assert [await client.chunk() for _ in range(3)] == [EVENT, DONE, b""]
            assert list(served.gateway.pool) == [before]
            await until(lambda: request.connection.closed.is_set())  # it is not kept for another request
            native = served.gateway.client
            assert isinstance(native, NativeClient)
            assert len(native.stats()) == 1


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("nonsense"), lambda path: path.unlink()])
async def test_authorities_that_cannot_be_read_any_more_change_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    async with FakeEngine([completion()], tls=authority.issue().server()) as engine:
        endpoint = {"url": engine.url, "tls": {"ca": str(authority.ca)}}
        async with serving(endpoint, reload=QUICK, health={"interval": 0.05}) as served:
            spoil(authority.ca)
            await until(lambda: f"a: tls.ca {authority.ca} cannot be used" in caplog.text)
            probed = len(engine.probed)
            await until(lambda: len(engine.probed) > probed + 3)
            assert (await served.chat()).status_code == 200


async def test_a_reload_gives_an_endpoint_other_tls_and_keeps_all_that_is_known_of_it(
    authority: Authority, tmp_path: Path
) -> None:
    async with FakeEngine([completion()], tls=authority.issue("engine.internal").server()) as engine:
        right = {"ca": str(authority.ca), "server_name": "engine.internal"}
        endpoint: dict[str, Any] = {"url": engine.url, "tls": {"ca": str(authority.ca)}}
        data = config_data(endpoint, reload={"watch": 0})
        source = ConfigFile(tmp_path / "llmgate.yaml", lambda: from_data(data, "test", {}))
        async with serving(source=source, wait=False) as served:
            assert "not valid for '127.0.0.1'" in await reason(served)
            [before] = served.gateway.pool
            data["endpoints"][0]["tls"] = right
            assert (await served.admin.post("/api/reload")).json()["changed"] == ["a"]
            await served.ready()
            assert list(served.gateway.pool) == [before]
            assert (await served.chat()).status_code == 200


async def test_one_removed_by_hand_does_not_come_back_with_new_certificates(authority: Authority) -> None:
    async with FakeEngine([completion()], tls=authority.issue().server()) as engine:
        endpoints: list[dict[str, Any]] = [
            {"url": engine.url, "tls": {"ca": str(authority.ca)}},
            {"url": "http://127.0.0.1:1"},
        ]
        async with serving(*endpoints, wait=False, reload=QUICK) as served:
            await served.admin.delete("/api/endpoints/a")
            await until(lambda: served.gateway.pool.get("a") is None)
            await served.gateway._renew()
            assert [endpoint.name for endpoint in served.gateway.pool] == ["b"]
