from __future__ import annotations

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from starlette.types import Receive, Scope, Send

from llmgate.gateway.admin_guard import BrowserGuard


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(guard: BrowserGuard, method: str = "GET", headers: list[tuple[str, str]] | None = None) -> Response:
    async with AsyncClient(transport=ASGITransport(guard), base_url="http://unused") as client:
        return await client.request(method, "/", headers=headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8081",
        "127.0.0.1:8081",
        "10.1.2.3",
        "[::1]:8081",
        "gateway.internal:8081",
        "Gateway.Internal",
    ],
)
async def test_localhost_numbers_and_the_configured_host_are_ours(host: str) -> None:
    assert (await ask(BrowserGuard(hello, ["gateway.internal"]), headers=[("host", host)])).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8081", "", "[::1", "a b"]
)
async def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    answer = await ask(BrowserGuard(hello, ["gateway.internal"]), headers=[("host", host)])
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "unknown_host"


async def test_two_hosts_are_refused() -> None:
    answer = await ask(BrowserGuard(hello, []), headers=[("host", "localhost"), ("host", "localhost")])
    assert answer.status_code == 421


async def test_any_host_will_do_where_a_token_protects() -> None:
    assert (await ask(BrowserGuard(hello, None), headers=[("host", "llmgate.svc.cluster.local")])).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # not a browser
        ({"origin": "http://localhost:8081"}, 200),
        ({"origin": "HTTP://LocalHost:8081"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:8081.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:8081"}, 403),
    ],
)
async def test_only_pages_of_our_own_origin_may_change_anything(headers: dict[str, str], status: int) -> None:
    for hosts in ((), None):
        answer = await ask(BrowserGuard(hello, hosts), "POST", [("host", "localhost:8081"), *headers.items()])
        assert answer.status_code == status


async def test_a_page_elsewhere_may_ask_but_browsers_keep_the_answer_from_it() -> None:
    answer = await ask(BrowserGuard(hello, []), headers=[("host", "localhost"), ("origin", "http://evil.example")])
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_a_refusal_carries_the_security_headers_too() -> None:
    answer = await ask(BrowserGuard(hello, []), headers=[("host", "evil.example")])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
