"""The routes of the data port."""

from __future__ import annotations

import pytest

from llmgate.testing.fake_upstream import answer
from tests.support.fake_engine import FakeEngine, completion, until
from tests.support.raw_client import connect
from tests.support.serving import CHAT, HELLO, serving


async def test_health_is_200_whatever_the_engines_do() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        assert (await served.client.get("/health")).json() == {"status": "ok"}
        await engine.stop()
        assert (await served.client.get("/health")).status_code == 200


async def test_ready_is_200_while_an_endpoint_is() -> None:
    async with FakeEngine() as a, FakeEngine() as b, serving(a, b) as served:
        for name, status in (("a", 200), ("b", 503)):
            await served.admin.post(f"/api/endpoints/{name}/drain")
            assert (await served.client.get("/ready")).status_code == status
        await served.admin.post("/api/endpoints/a/undrain")
        assert (await served.client.get("/ready")).json() == {"status": "ready"}


async def test_models_are_those_of_the_pool_and_their_aliases() -> None:
    aliases = [{"name": "m", "aliases": ["gpt-4o"]}, {"name": "nowhere", "aliases": ["not-this"]}]
    engines = FakeEngine(models=["m", "n"]), FakeEngine(models=["n", "o"])
    async with engines[0] as a, engines[1] as b, serving(a, b, models=aliases) as served:
        listed = (await served.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert sorted(each["id"] for each in listed["data"]) == ["gpt-4o", "m", "n", "o"]
    assert all(each["object"] == "model" and each["created"] > 0 for each in listed["data"])


async def test_a_request_goes_only_to_endpoints_of_its_model() -> None:
    async with FakeEngine([completion()], models=["m"]) as a, FakeEngine([completion()], models=["n"]) as b:
        async with serving(a, b) as served:
            for _ in range(3):
                assert (await served.chat(HELLO | {"model": "n"})).headers["x-llmgate-endpoint"] == "b"
        assert not a.asked


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/chat/completions/", "//v1/models", "/v1/chat/../models"])
async def test_an_unknown_path_is_a_404_in_openais_shape(path: str) -> None:
    async with FakeEngine() as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: g\r\n\r\n" % path.encode())
        head, body = await client.answer()
        assert head.status == 404
        assert b'"code":"unknown_url"' in body


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", CHAT, "POST"), ("POST", "/v1/models", "GET, HEAD")])
async def test_a_wrong_method_is_a_405_that_names_the_right_one(method: str, path: str, allowed: str) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        answered = await served.client.request(method, path)
        assert answered.status_code == 405
        assert answered.headers["allow"] == allowed
        assert answered.json()["error"]["code"] == "method_not_allowed"


async def test_head_gets_the_head_only() -> None:
    async with FakeEngine() as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(b"HEAD /health HTTP/1.1\r\nhost: g\r\n\r\nGET /health HTTP/1.1\r\nhost: g\r\n\r\n")
        head = await client.head()
        assert (head.status, head.headers["content-length"]) == (200, "15")
        assert (await client.answer())[1] == b'{"status":"ok"}'


async def test_metrics_are_prometheus_text_or_openmetrics() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        await served.chat()
        plain = await served.client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        assert 'llmgate_requests_total{model="m",endpoint="a",code="200"} 1' in plain.text
        asked = await served.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert asked.text.endswith("# EOF\n")


async def test_metrics_may_be_left_to_the_admin_port() -> None:
    async with FakeEngine() as engine, serving(engine, server={"metrics": False}) as served:
        refused = await served.client.get("/metrics")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_url")
        assert "llmgate_build_info" in (await served.admin.get("/metrics")).text


async def test_an_endpoint_that_is_no_llm_server_gets_no_requests() -> None:
    async def web_page(_: object) -> None:
        raise AssertionError("it was asked")

    class WebServer(FakeEngine):
        def _page(self, path: bytes) -> bytes:
            return answer(b"<html>", 200, [(b"content-type", b"text/html")])

    engines = FakeEngine([completion()]), WebServer(web_page)
    async with engines[0] as engine, engines[1] as stranger, serving(engine, stranger, wait=False) as served:
        b = served.gateway.pool.get("b")
        assert b is not None
        await until(lambda: served.state("a").value == "up" and "not an LLM server" in b.health.reason)
        for _ in range(3):
            assert (await served.chat()).headers["x-llmgate-endpoint"] == "a"


async def test_with_all_engines_down_at_the_start_it_is_not_ready_and_recovers() -> None:
    engine = FakeEngine([completion()])
    await engine.start()  # takes a port, which is free again in a moment
    await engine.stop()
    async with serving(engine, wait=False) as served:
        assert (await served.client.get("/ready")).status_code == 503
        refused = await served.chat()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "no_ready_endpoint"
        async with engine:
            await served.ready()
            assert (await served.chat()).status_code == 200


async def test_a_model_whose_endpoints_are_all_draining_is_a_503() -> None:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["n"]) as b, serving(a, b) as served:
        await served.admin.post("/api/endpoints/a/drain")
        refused = await served.chat()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
