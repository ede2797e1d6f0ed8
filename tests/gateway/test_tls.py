"""TLS with clients, by real handshakes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llmgate.config import ConfigFile, load_file
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.certificates import Authority
from tests.support.fake_engine import DONE, FakeEngine, completion, until
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, Served, config_data, serving

BOTH_LOOPS = True

EVENT = b'data: {"n": 1}\n\n'
QUICK = {"watch": 0.01}
REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
"""How a client sees it: some event loops do not send the alert that would say why."""

METRIC = "llmgate_tls_certificate_expiry_timestamp_seconds"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "own")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody here trusts."""
    return Authority(tmp_path / "stranger")


async def status(served: Served, tls: ssl.SSLContext | None) -> int:
    """Of a chat over a new connection. In TLS 1.3 a client learns only after the handshake that it was refused."""
    async with connect(served.gateway.data_port, tls) as client:
        client.send(post(HELLO))
        head, _ = await client.answer()
        return head.status


async def serial_number(port: int, authority: Authority) -> str:
    async with connect(port, authority.client()) as client:
        return client.serial_number


async def test_chats_whole_and_streamed_over_tls(authority: Authority) -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server={"tls": authority.issue().settings}) as served,
        connect(served.gateway.data_port, authority.client()) as client,
    ):
        client.send(post(HELLO))
        await (await engine.request()).send(completion())
        head, body = await client.answer()
        assert (head.status, json.loads(body)["id"]) == (200, "x")
        client.send(post(STREAMED))  # the connection is kept
        request = await engine.request()
        await request.send(STREAM_HEAD, chunk(EVENT))
        assert (await client.head()).status == 200
        assert await client.chunk() == EVENT  # at once, not at the end
        await request.send(chunk(DONE), LAST_CHUNK)
        assert [await client.chunk(), await client.chunk()] == [DONE, b""]


async def test_a_client_that_leaves_over_tls_frees_its_engine(authority: Authority) -> None:
    async with FakeEngine() as engine, serving(engine, server={"tls": authority.issue().settings}) as served:
        async with connect(served.gateway.data_port, authority.client()) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD, chunk(EVENT))
            await client.head()
        await asyncio.wait_for(request.connection.closed.wait(), 5)
        await served.settled()


async def test_a_client_that_does_not_know_the_authority_breaks_off(authority: Authority, stranger: Authority) -> None:
    tls = {"tls": authority.issue().settings}
    async with FakeEngine([completion()]) as engine, serving(engine, server=tls) as served:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            await status(served, stranger.client())
        assert await status(served, authority.client()) == 200


async def test_who_does_not_speak_tls_gets_no_answer_and_disturbs_nobody(authority: Authority) -> None:
    tls = {"tls": authority.issue().settings}
    async with FakeEngine([completion()]) as engine, serving(engine, server=tls) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(HELLO))
            assert b"HTTP/" not in await client.rest()
        assert await status(served, authority.client()) == 200
        assert len(engine.asked) == 1


async def test_below_the_minimal_version_there_is_no_handshake(authority: Authority) -> None:
    tls = {"tls": authority.issue().settings | {"min_version": "1.3"}}
    old = authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with FakeEngine([completion()]) as engine, serving(engine, server=tls) as served:
        with pytest.raises(REFUSED):
            await status(served, old)
        assert await status(served, authority.client()) == 200


async def test_a_client_is_offered_http_1_1_and_nothing_newer(authority: Authority) -> None:
    modern = authority.client()
    modern.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        FakeEngine() as engine,
        serving(engine, server={"tls": authority.issue().settings}) as served,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", served.gateway.data_port, ssl=modern)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.transport.abort()


# Clients' certificates


@pytest.mark.parametrize("wanted", ["required", "optional"])
async def test_a_client_certificate_is_checked(authority: Authority, stranger: Authority, wanted: str) -> None:
    tls = authority.issue().settings | {"client_ca": str(authority.ca), "client_certificate": wanted}
    known, unknown = authority.issue("client", file="client"), stranger.issue("client", file="client")
    async with FakeEngine([completion()]) as engine, serving(engine, wait=False, server={"tls": tls}) as served:
        await until(lambda: all(endpoint.health.available for endpoint in served.gateway.pool))
        assert await status(served, authority.client(known)) == 200
        with pytest.raises(REFUSED):
            await status(served, authority.client(unknown))
        assert len(engine.asked) == 1
        if wanted == "optional":
            assert await status(served, authority.client()) == 200
        else:
            with pytest.raises(REFUSED):
                await status(served, authority.client())
            assert len(engine.asked) == 1


async def test_a_client_certificate_that_has_expired_is_refused(authority: Authority) -> None:
    tls = authority.issue().settings | {"client_ca": str(authority.ca)}
    expired = authority.issue("client", file="client", days=-1)
    async with FakeEngine([completion()]) as engine, serving(engine, wait=False, server={"tls": tls}) as served:
        with pytest.raises(REFUSED):
            await status(served, authority.client(expired))
        assert not engine.asked


# The admin port


async def test_the_admin_port_speaks_tls_by_itself(authority: Authority) -> None:
    tls = {"tls": authority.issue().settings, "token": "sesame"}
    async with FakeEngine() as engine, serving(engine, admin=tls) as served:
        assert (await served.admin.get("/api/endpoints")).status_code == 401
        known = {"authorization": "Bearer sesame"}
        assert (await served.admin.get("/api/endpoints", headers=known)).status_code == 200
        shown = (await served.admin.get("/metrics", headers=known)).text
        assert f'{METRIC}{{endpoint="",section="admin.tls"}}' in shown
        assert str(served.client.base_url).startswith("http://")


# Renewal


async def test_changed_files_are_taken_in_while_streams_go_on(authority: Authority) -> None:
    tls = authority.issue().settings
    async with (
        FakeEngine() as engine,
        serving(engine, server={"tls": tls}, admin={"tls": tls}, reload=QUICK) as served,
        connect(served.gateway.data_port, authority.client()) as client,
    ):
        client.send(post(STREAMED))
        request = await engine.request()
        await request.send(STREAM_HEAD, chunk(EVENT))
        await client.head()
        before = client.serial_number
        assert await serial_number(served.gateway.admin_port, authority) == before
        authority.issue(days=100)
        async with asyncio.timeout(5):
            for port in (served.gateway.data_port, served.gateway.admin_port):
                while await serial_number(port, authority) == before:
                    await asyncio.sleep(0.01)
        assert await client.chunk() == EVENT
        await request.send(chunk(EVENT))
        assert await client.chunk() == EVENT
        await request.send(chunk(DONE), LAST_CHUNK)
        assert [await client.chunk(), await client.chunk()] == [DONE, b""]
        client.send(post(STREAMED))  # and the connection is kept beyond
        await engine.request()


async def test_no_connection_is_refused_while_certificates_change(authority: Authority) -> None:
    tls = authority.issue().settings
    async with FakeEngine([completion()]) as engine, serving(engine, server={"tls": tls}, reload=QUICK) as served:
        seen: set[str] = set()
        async with asyncio.timeout(20):
            while len(seen) < 4:
                async with connect(served.gateway.data_port, authority.client()) as client:
                    client.send(post(HELLO))
                    assert (await client.answer())[0].status == 200
                    if client.serial_number not in seen:
                        seen.add(client.serial_number)
                        authority.issue()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda own, pair: Path(pair["certificate"]).write_text("nonsense"), "it holds no certificate in PEM"),
        (
            lambda own, pair: Path(pair["certificate"]).write_bytes(own.issue(file="x").certificate.read_bytes()),
            "server.tls.key {key} does not belong to the certificate {certificate}",
        ),
        (
            lambda own, pair: Path(pair["key"]).unlink(),
            "server.tls.key {key} cannot be used: No such file or directory",
        ),
        (lambda own, pair: own.issue(days=-1), "server.tls.certificate has expired"),
    ],
)
async def test_a_bad_new_pair_is_refused_and_the_old_one_stays(
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Authority, dict[str, str]], object],
    said: str,
) -> None:
    tls = authority.issue().settings
    async with FakeEngine([completion()]) as engine, serving(engine, server={"tls": tls}, reload=QUICK) as served:
        before = await serial_number(served.gateway.data_port, authority)
        spoil(authority, tls)
        await until(lambda: said.format(**tls) in caplog.text)
        assert "not taken in" in caplog.text
        assert await serial_number(served.gateway.data_port, authority) == before
        assert await status(served, authority.client()) == 200
        authority.issue()  # what was wrong is put right
        async with asyncio.timeout(5):
            while await serial_number(served.gateway.data_port, authority) == before:
                await asyncio.sleep(0.01)


def spoil_key(pair: dict[str, str]) -> None:
    Path(pair["key"]).write_text("nonsense")


async def test_what_is_wrong_is_told_once_not_at_each_look(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = authority.issue().settings
    async with FakeEngine() as engine, serving(engine, server={"tls": tls}, reload=QUICK) as served:
        looks = 0
        renew = served.gateway._renew

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await renew()

        served.gateway._renew = counted  # type: ignore[method-assign]
        spoil_key(tls)
        await until(lambda: looks > 10)
        assert caplog.text.count("not taken in") == 1


async def test_sighup_takes_certificates_in_that_are_not_watched(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "llmgate.yaml"
    source = ConfigFile(file, lambda: load_file(file, {}))
    async with FakeEngine([completion()]) as engine:
        data = config_data(engine, server={"tls": authority.issue().settings}, reload={"watch": 0})
        file.write_text(yaml.safe_dump(data))
        async with serving(source=source) as served:
            before = await serial_number(served.gateway.data_port, authority)
            authority.issue()
            assert await serial_number(served.gateway.data_port, authority) == before
            served.gateway.hang_up()
            async with asyncio.timeout(5):
                while await serial_number(served.gateway.data_port, authority) == before:
                    await asyncio.sleep(0.01)


async def test_a_mistake_in_the_configuration_does_not_hold_up_new_certificates(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "llmgate.yaml"
    source = ConfigFile(file, lambda: load_file(file, {}))
    async with FakeEngine([completion()]) as engine:
        data = config_data(engine, server={"tls": authority.issue().settings}, reload=QUICK)
        file.write_text(yaml.safe_dump(data))
        async with serving(source=source) as served:
            before = await serial_number(served.gateway.data_port, authority)
            file.write_text("nonsense: true")
            await until(lambda: "not reloaded" in caplog.text)
            authority.issue()
            async with asyncio.timeout(5):
                while await serial_number(served.gateway.data_port, authority) == before:
                    await asyncio.sleep(0.01)


async def test_a_reload_turns_tls_on_and_off_for_new_connections(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "llmgate.yaml"
    source = ConfigFile(file, lambda: load_file(file, {}))
    async with FakeEngine([completion()]) as engine:
        plain = config_data(engine, reload={"watch": 0})
        file.write_text(yaml.safe_dump(plain))
        async with serving(source=source) as served:
            secure = plain | {"server": plain["server"] | {"tls": authority.issue().settings}}
            file.write_text(yaml.safe_dump(secure))
            assert (await served.admin.post("/api/reload")).json()["sections"] == ["server"]
            assert await status(served, authority.client()) == 200
            assert (await served.chat()).status_code == 200  # over the connection of before
            file.write_text(yaml.safe_dump(plain))
            assert (await served.admin.post("/api/reload")).status_code == 200
            assert await status(served, None) == 200


# The end of a certificate


async def test_when_certificates_end_is_a_metric_and_soon_before_it_a_warning(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue(days=5)
    async with FakeEngine() as engine, serving(engine, server={"tls": pair.settings}) as served:
        shown = await served.metric(f'{METRIC}{{endpoint="",section="server.tls"}}')
        assert shown == ssl.cert_time_to_seconds(_not_after(pair.certificate))
        await until(lambda: "server.tls.certificate expires in 5 days" in caplog.text)


def _not_after(path: Path) -> str:
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.strftime("%b %d %H:%M:%S %Y GMT")
