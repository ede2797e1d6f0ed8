"""Where the gateway connects to is the operator's to say: no client and no engine sends it elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.testing.fake_upstream import FakeUpstream, ReceivedRequest, answer
from tests.support.fake_engine import FakeEngine, completion, until
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, serving


@pytest.mark.parametrize(
    "field", ["base_url", "api_base", "url", "host", "endpoint", "custom_host", "adapter_path", "lora_path", "proxy"]
)
async def test_an_address_in_the_body_leads_nowhere(field: str) -> None:
    async with FakeUpstream() as elsewhere, FakeEngine([completion()]) as engine, serving(engine) as served:
        body = HELLO | {field: elsewhere.url}
        assert (await served.chat(body)).status_code == 200
        assert json.loads(engine.asked[0].body) == body  # what it means is for the engine to say
        assert not elsewhere.connections


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "x-forwarded-host",
        "x-original-url",
        "x-rewrite-url",
        "x-llmgate-endpoint",
        "x-gateway-destination-endpoint",
        "x-custom-host",
        "forwarded",
    ],
)
async def test_an_address_in_a_header_leads_nowhere(name: str) -> None:
    async with (
        FakeUpstream() as elsewhere,
        FakeEngine([completion()]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        address = elsewhere.url.removeprefix("http://")
        client.send(post(HELLO, **{name: f"host={address}" if name == "forwarded" else address}))
        assert (await client.head()).status == 200
        assert not elsewhere.connections
        assert engine.asked[0].header("host") == engine.url.removeprefix("http://").encode()


async def test_an_address_in_the_request_line_leads_nowhere() -> None:
    async with FakeUpstream() as elsewhere, FakeEngine([completion()]) as engine, serving(engine) as served:
        for method in ("POST", "CONNECT"):
            async with connect(served.gateway.data_port) as client:
                target = f"{elsewhere.url}{CHAT}" if method == "POST" else elsewhere.url.removeprefix("http://")
                client.send(post(HELLO, target).replace(b"POST", method.encode(), 1))
                assert (await client.head()).status in (200, 400, 404, 405)  # of this engine, or none
        assert not elsewhere.connections
        assert all(asked.path == CHAT.encode() for asked in engine.asked)


class Redirecting(FakeEngine):
    """Sends whoever asks for one of `paths` elsewhere."""

    def __init__(self, elsewhere: FakeUpstream, *paths: bytes, status: int = 302) -> None:
        super().__init__([completion()])
        self._elsewhere = elsewhere
        self._paths = paths
        self._status = status

    async def _handle(self, request: ReceivedRequest) -> None:
        if request.path in self._paths:
            location = (b"location", f"{self._elsewhere.url}{request.path.decode()}".encode())
            self.probed.append(request)
            await request.send(answer(b"", self._status, [location]))
        else:
            await super()._handle(request)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_probe_follows_no_redirect(status: int) -> None:
    async with (
        FakeUpstream([answer()]) as elsewhere,
        Redirecting(elsewhere, b"/health", status=status) as engine,
        serving(engine, wait=False) as served,
    ):
        [endpoint] = served.gateway.pool
        await until(lambda: f"/health answered {status}" in endpoint.health.reason)
        assert not elsewhere.connections


@pytest.mark.parametrize("path", [b"/v1/models", b"/metrics"])
async def test_neither_a_list_of_models_nor_a_reading_follows_a_redirect(path: bytes) -> None:
    stated: dict[str, Any] = {"engine": "vllm", "models": ["m"]} if path == b"/metrics" else {}
    async with FakeUpstream([answer()]) as elsewhere, Redirecting(elsewhere, path) as engine:
        async with serving({"url": engine.url, **stated}, wait=False, scrape={"interval": 0.02}) as served:
            await until(lambda: [each.path for each in engine.probed].count(path) > 2)
            assert (await served.client.get("/health")).status_code == 200
        assert not elsewhere.connections


async def test_a_request_follows_no_redirect() -> None:
    async with FakeUpstream([answer()]) as elsewhere, Redirecting(elsewhere, CHAT.encode()) as engine:
        async with serving(engine) as served:
            await served.chat()
        assert not elsewhere.connections
