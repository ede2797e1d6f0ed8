"""Pages of other origins, where the configuration allows them: on every route, and on errors too."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_engine import DONE, FakeEngine, completion, stream
from tests.support.serving import CHAT, HELLO, STREAMED, serving

ORIGIN = "https://chat.example.com"
ONE: dict[str, Any] = {"origins": [ORIGIN, "http://localhost:3000"]}
ALL: dict[str, Any] = {"origins": ["*"]}
ROUTES = [
    ("POST", CHAT, HELLO, 200),
    ("POST", CHAT, STREAMED, 200),
    ("POST", f"{CHAT}?query=1", HELLO, 200),
    ("POST", CHAT, {"model": "unknown", "messages": []}, 404),
    ("POST", CHAT, {"padding": "x" * 2000}, 413),
    ("POST", f"{CHAT}?query=1", {"padding": "x" * 2000}, 413),
    ("GET", CHAT, None, 405),
    ("GET", "/v1/models", None, 200),
    ("GET", "/health", None, 200),
    ("GET", "/nothing", None, 404),
]


@pytest.mark.parametrize("cors", [ONE, ALL], ids=["one", "all"])
async def test_every_answer_says_that_the_origin_may_read_it(cors: dict[str, Any]) -> None:
    async with (
        FakeEngine(stream(b"data: 1\n\n", DONE)) as engine,
        serving(engine, cors=cors, server={"body_limit": 1024}) as served,
    ):
        for method, path, body, status in ROUTES:
            answer = await served.client.request(method, path, json=body, headers={"origin": ORIGIN})
            assert answer.status_code == status, path
            expected = "*" if cors is ALL else ORIGIN
            assert answer.headers.get_list("access-control-allow-origin") == [expected], path
            assert answer.headers["access-control-expose-headers"] == "*"
            assert answer.headers.get("vary") == (None if cors is ALL else "origin")


async def test_other_origins_and_none_are_told_nothing() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, cors=ONE) as served:
        for headers in ({"origin": "https://evil.example.com"}, {"origin": "null"}, {}):
            answer = await served.client.post(CHAT, json=HELLO, headers=headers)
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "origin"
            assert answer.status_code == 200  # browsers keep it from the page; others need no permission


async def test_a_browser_that_asks_beforehand_is_answered_by_the_gateway() -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-lang",
    }
    async with FakeEngine() as engine, serving(engine, cors=ONE | {"max_age": 60}) as served:
        for path in (CHAT, "/v1/models", "/anything"):
            answer = await served.client.request("OPTIONS", path, headers={"origin": ORIGIN, **asked})
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-length" not in answer.headers
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
            assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-lang"
            assert answer.headers["access-control-max-age"] == "60"
            assert "access-control-allow-credentials" not in answer.headers
        refused = await served.client.request("OPTIONS", CHAT, headers={"origin": "https://evil.example", **asked})
        assert not [name for name in refused.headers if name.startswith("access-control")]
        assert (await served.client.request("OPTIONS", CHAT)).status_code == 405
        assert not engine.asked


async def test_without_it_nothing_is_allowed() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        answer = await served.client.post(CHAT, json=HELLO, headers={"origin": ORIGIN})
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]
        assert (await served.client.request("OPTIONS", CHAT, headers={"origin": ORIGIN})).status_code == 405
