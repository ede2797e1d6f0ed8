"""The gateway as a whole: it starts, drains and stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from pathlib import Path

import pytest
import trustme

from llmgate.config import TlsFiles
from llmgate.core.types import TerminationCause
from llmgate.gateway.server import PortInUse
from llmgate.gateway.tls import destination_of
from llmgate.runtime import Gateway
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, chunk
from llmgate.upstream.base import Target
from tests.support.fake_engine import DONE, FakeEngine, completion, gone, until
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, config, serving

EVENT = b'data: {"n": 1}\n\n'


async def test_during_the_notice_it_is_not_ready_but_takes_requests() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, timeouts={"notice": 60}) as served:
        served.gateway.stop()
        await until(lambda: served.gateway.app.draining)
        ready = await served.client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert (await served.client.get("/health")).status_code == 200
        assert (await served.chat()).status_code == 200
        served.gateway.stop()  # the second one does not wait for the notice to end
        await served.ends()


async def test_after_the_notice_connections_are_refused_and_streams_finish() -> None:
    async with FakeEngine() as engine, serving(engine, timeouts={"drain": 10}) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD, chunk(EVENT))
            await client.head()
            assert await client.chunk() == EVENT
            served.gateway.stop()
            await until(lambda: not served.listening)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", served.gateway.data_port)
            await request.send(chunk(DONE), LAST_CHUNK)
            assert await client.chunk() == DONE
            assert await client.chunk() == b""
            assert await client.rest() == b""  # the connection is not kept
            await served.ends()
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.COMPLETED: 1}


async def test_at_the_deadline_what_is_left_ends_with_an_error_that_says_why() -> None:
    async with FakeEngine() as engine, serving(engine, timeouts={"drain": 0.3}) as served:
        async with connect(served.gateway.data_port) as begun, connect(served.gateway.data_port) as waiting:
            begun.send(post(STREAMED))
            first = await engine.request()
            await first.send(STREAM_HEAD, chunk(EVENT))
            head = await begun.head()
            assert await begun.chunk() == EVENT
            waiting.send(post(HELLO))
            second = await engine.request()
            served.gateway.stop()
            rest = await begun.body(head)
            assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
            head, body = await waiting.answer()
            assert head.status == 503
            assert json.loads(body)["error"]["code"] == "shutting_down"
            assert head.headers["retry-after"]
            await gone(first)
            await gone(second)
            await served.ends()
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.SHUTDOWN: 2}


async def test_a_client_that_reads_nothing_does_not_keep_the_gateway_alive() -> None:
    async with FakeEngine() as engine, serving(engine, timeouts={"drain": 0.3}) as served:
        async with connect(served.gateway.data_port) as client:
            client.pause()
            client.send(post(STREAMED))
            request = await engine.request()
            pouring = asyncio.create_task(request.send(STREAM_HEAD, *[chunk(b"x" * 2**20)] * 40))
            await until(lambda: request.connection.unsent > 0)
            served.gateway.stop()
            await served.ends()
        await asyncio.gather(pouring, return_exceptions=True)


async def test_a_client_in_the_middle_of_its_request_does_not_keep_the_gateway_alive() -> None:
    async with FakeEngine() as engine, serving(engine, timeouts={"drain": 0.3}) as served:
        others = served.client_connections
        async with connect(served.gateway.data_port) as client:
            client.send(post(HELLO)[:-5])
            await until(lambda: served.client_connections == others + 1)
            served.gateway.stop()
            await served.ends()
        assert not engine.asked


async def test_a_draining_endpoint_keeps_its_streams_and_gets_no_new_ones() -> None:
    async with FakeEngine() as a, FakeEngine([completion()]) as b, serving(a, b) as served:
        await served.admin.post("/api/endpoints/b/drain")
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await a.request()
            await request.send(STREAM_HEAD, chunk(EVENT))
            await client.head()
            assert await client.chunk() == EVENT
            await served.admin.post("/api/endpoints/b/undrain")
            drained = (await served.admin.post("/api/endpoints/a/drain")).json()
            assert (drained["draining"], drained["in_flight"]["requests"]) == (True, 1)
            for _ in range(4):
                assert (await served.chat()).headers["x-llmgate-endpoint"] == "b"
            await request.send(chunk(DONE), LAST_CHUNK)
            assert await client.chunk() == DONE
            assert await client.chunk() == b""
        shown = (await served.admin.get("/api/endpoints")).json()[0]
        assert shown["in_flight"] == {"requests": 0, "prefill_tokens": 0, "decode_tokens": 0}


async def test_decisions_can_be_seen_on_the_admin_port() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        await served.chat(x_request_id="mine")
        (decision,) = (await served.admin.get("/api/decisions")).json()
    assert (decision["request_id"], decision["endpoint"], decision["model"]) == ("mine", "a", "m")


async def test_the_admin_port_wants_its_token() -> None:
    async with FakeEngine() as engine, serving(engine, admin={"token": "canary"}) as served:
        assert (await served.admin.get("/api/endpoints")).status_code == 401
        shown = await served.admin.get("/api/endpoints", headers={"authorization": "Bearer canary"})
        assert shown.status_code == 200


@pytest.mark.parametrize("section", ["server", "admin"])
async def test_a_port_in_use_is_said_in_a_sentence_and_nothing_is_left_bound(section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        ports = {"server": {"port": other}, "admin": {"port": other}, section: {"port": port}}
        with pytest.raises(PortInUse, match=rf"^127\.0\.0\.1:{port} is in use by another program"):
            Gateway(config("http://127.0.0.1:1", **ports))
        with socket.create_server(("127.0.0.1", other)):
            pass


async def test_an_authority_that_cannot_be_read_is_said_in_a_sentence() -> None:
    endpoint = {"url": "https://127.0.0.1:1", "tls_ca": "/nowhere.pem"}
    with pytest.raises(ValueError, match=r"^a: tls\.ca /nowhere\.pem cannot be used: No such file or directory"):
        Gateway(config(endpoint))


async def test_an_unknown_gpu_counts_as_one_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    endpoints = [{"url": f"http://127.0.0.1:{n}", "gpu": gpu} for n, gpu in ((1, "H100"), (2, "abacus"))]
    async with serving(*endpoints, {"url": "http://127.0.0.1:3", "weight": 2.5, "gpu": "abacus"}, wait=False) as served:
        known, unknown, stated = (endpoint.weight for endpoint in served.gateway.pool)
    assert known > 0
    assert (unknown, stated) == (1.0, 2.5)
    assert "no weight is known for the GPU 'abacus'" in caplog.text


async def test_no_secret_prompt_or_answer_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = STREAMED | {"messages": [{"role": "user", "content": "canary-prompt"}]}
    broken = [STREAM_HEAD, chunk(b"data: canary-answer\n\n"), b"canary-nonsense\r\n"]
    async with FakeEngine(broken) as engine:
        endpoint = {"url": engine.url, "api_key": "canary-engine-key"}
        async with serving(endpoint, admin={"token": "canary-token"}) as served:
            await served.chat(body, authorization="Bearer canary-client-key")
            await served.chat(b'{"model": "m", "messages": canary-malformed}')
            pages = [await served.client.get("/metrics"), await served.client.get("/v1/models")]
    assert "canary" not in caplog.text
    assert all("canary" not in page.text for page in pages)


def test_the_same_authorities_are_the_same_target_so_that_a_reload_keeps_its_connections(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authorities))
    made = config({"url": "https://127.0.0.1:1", "tls_ca": str(authorities)}, "https://127.0.0.1:2")
    files = TlsFiles()

    def targets() -> list[Target]:
        return [destination_of(made, endpoint, files).target for endpoint in made.endpoints]

    before = targets()
    assert targets() == before
    assert before[0].tls is not before[1].tls
    trustme.CA().cert_pem.write_to_path(str(authorities))  # renewed in its place
    renewed = targets()
    assert renewed[0] != before[0]
    assert renewed[1] == before[1]


async def test_the_number_of_gpus_multiplies_the_weight_of_one_but_not_a_stated_weight() -> None:
    gpus: dict[str, object] = {"gpus": [0, "GPU-1"]}
    endpoints: list[dict[str, object]] = [{"gpu": "H100", **gpus}, gpus, {"gpu": "H100", "weight": 2.5, **gpus}]
    urls = ({"url": f"http://127.0.0.1:{number}", **each} for number, each in enumerate(endpoints, start=1))
    async with serving(*urls, wait=False) as served:
        assert [endpoint.weight for endpoint in served.gateway.pool] == [3.2, 2.0, 2.5]


@pytest.mark.parametrize(("seconds", "weight"), [(0.5, 0.1), (0, 1.0)])
async def test_an_engine_that_is_taken_in_again_starts_slowly(seconds: float, weight: float) -> None:
    async with (
        FakeEngine([completion()]) as stays,
        FakeEngine([completion()]) as returns,
        serving(stays, returns, health={"slow_start": seconds}) as served,
    ):
        pool, now = served.gateway.pool, time.monotonic()
        pool.ready("m", now)
        pool.ready("m", now + 10)  # both have been there for long
        b = pool.get("b")
        assert b is not None
        for draining in (True, False):
            pool.set_draining(b, draining)
        pool.ready("m", now + 20)
        assert [endpoint.weight for endpoint in pool] == pytest.approx([1.0, weight])
        pool.ready("m", now + 21)
        assert [endpoint.weight for endpoint in pool] == [1.0, 1.0]


async def test_with_all_engines_down_it_starts_is_not_ready_and_takes_them_in_as_they_come() -> None:
    async with FakeEngine([completion()]) as engine:
        engine.healthy = False
        async with serving(engine, wait=False) as served:
            async with asyncio.timeout(10):
                while (await served.client.get("/ready")).status_code != 503 or not engine.probed:
                    await asyncio.sleep(0.01)
            assert (await served.chat()).status_code == 503
            engine.healthy = True
            await served.ready()
            assert (await served.chat()).status_code == 200


async def test_during_the_notice_each_answer_is_its_connections_last() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, timeouts={"notice": 60}) as served:
        async with connect(served.gateway.data_port) as direct, connect(served.gateway.data_port) as page:
            direct.send(post(HELLO))
            assert "connection" not in (await direct.answer())[0].headers
            served.gateway.stop()
            await until(lambda: served.gateway.app.draining)
            direct.send(post(HELLO))
            page.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            for client in (direct, page):
                head, _ = await client.answer()
                assert (head.status, head.headers["connection"]) == (200, "close")
                assert await client.rest() == b""
        served.gateway.stop()
        await served.ends()


async def test_a_connection_that_came_just_before_the_end_gets_its_request_answered() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            served.gateway.stop()
            await until(lambda: not served.listening)
            client.send(post(HELLO))
            head, _ = await client.answer()
            assert head.status == 200
            assert await client.rest() == b""
        await served.ends()


async def test_a_gateway_that_shares_its_port_leaves_requests_to_others_until_it_has_an_engine() -> None:
    async with FakeEngine([completion()]) as engine:
        engine.healthy = False
        async with serving(engine, wait=False, server={"reuse_port": True}) as served:
            await until(lambda: bool(engine.probed))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", served.gateway.data_port)
            engine.healthy = True
            await until(lambda: served.listening)
            assert (await served.chat()).status_code == 200


async def test_a_gateway_that_shares_its_port_and_finds_no_engine_listens_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmgate.runtime.SHARED_SECONDS", 0.1)
    async with FakeEngine() as engine:
        engine.healthy = False
        async with serving(engine, wait=False, server={"reuse_port": True}) as served:
            await until(lambda: served.listening)
            assert (await served.client.get("/ready")).status_code == 503


async def test_a_gateway_that_is_stopped_before_it_listens_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeEngine() as engine:
        engine.healthy = False
        async with serving(engine, wait=False, server={"reuse_port": True}) as served:
            served.gateway.stop()
            await served.ends()
