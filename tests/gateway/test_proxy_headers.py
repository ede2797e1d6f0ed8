"""Which header fields pass, as seen on the two sockets."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from llmgate.testing.fake_upstream import ReceivedRequest, answer
from llmgate.wire.headers import STEERING
from tests.support.fake_engine import FakeEngine, completion
from tests.support.raw_client import Head, connect, post
from tests.support.serving import CHAT, HELLO, Served, serving


async def exchange(
    served: Served, engine: FakeEngine, reply: bytes | None = None, /, **sent: str
) -> tuple[ReceivedRequest, Head]:
    """One request through the gateway: what the engine received, and the head that the client did."""
    async with connect(served.gateway.data_port) as client:
        client.send(post(HELLO, **sent))
        request = await engine.request()
        await request.send(reply or completion())
        head, _ = await client.answer()
        return request, head


async def test_hop_by_hop_fields_end_at_the_gateway_in_both_directions() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        theirs = {b"keep-alive": b"timeout=5", b"connection": b"x-internal", b"x-internal": b"1"}
        theirs |= {b"x-kept": b"yes", b"alt-svc": b"h3", b"trailer": b"x"}
        reply = answer(b"x", headers=list(theirs.items()))
        request, head = await exchange(
            served, engine, reply, connection="x-mine", x_mine="1", te="trailers", keep_alive="5", x_kept="yes",
            proxy_authorization="Basic abc",
        )  # fmt: skip
    for name in ("connection", "x-mine", "te", "keep-alive", "proxy-authorization"):
        assert request.header(name) is None, name
    assert request.header("x-kept") == b"yes"
    assert not {"keep-alive", "connection", "x-internal", "alt-svc", "trailer"} & head.headers.keys()
    assert head.headers["x-kept"] == "yes"


CLAIMS = ("x-llmgate-priority", "x-llmgate-endpoint", "forwarded", "x-real-ip", "x-forwarded-for", "x-forwarded-host",
          "x-forwarded-prefix", "x-forwarded-user", "x-forwarded-access-token", "x-forwarded-client-cert")  # fmt: skip


async def test_fields_that_the_gateway_owns_are_consumed() -> None:
    owned = (*CLAIMS, *(name.decode() for name in STEERING))
    async with FakeEngine() as engine, serving(engine) as served:
        reply = answer(b"x", headers=[(b"x-llmgate-endpoint", b"spoofed")])
        request, head = await exchange(served, engine, reply, **dict.fromkeys(owned, "canary"))
    assert b"canary" not in request.raw
    assert head.headers["x-llmgate-endpoint"] == "a"


async def test_what_an_engine_says_of_itself_or_of_more_than_its_answer_ends_at_the_gateway() -> None:
    """To a browser it would hold for all of the gateway's pages, to a web server in front it would be an order."""
    said = ("server", "x-powered-by", "set-cookie", "refresh", "link", "location", "clear-site-data", "nel",
            "report-to", "reporting-endpoints", "strict-transport-security", "x-accel-redirect",
            "x-sendfile")  # fmt: skip
    async with FakeEngine() as engine, serving(engine) as served:
        reply = answer(b"x", headers=[(name.encode(), b"canary") for name in said] + [(b"x-accel-buffering", b"no")])
        _, head = await exchange(served, engine, reply)
    assert "canary" not in str(head)
    assert head.headers["x-accel-buffering"] == "no"


async def test_the_engine_is_asked_by_its_own_host_name_and_for_identity() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        request, _ = await exchange(served, engine, accept_encoding="gzip, br", expect="")
    assert request.header("host") == engine.url.removeprefix("http://").encode()
    assert request.header("accept-encoding") is None
    assert request.header("expect") is None


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key", "cookie"])
async def test_the_clients_credentials_do_not_travel(field: str) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        request, _ = await exchange(served, engine, **{field: "canary"})
    assert b"canary" not in request.raw


async def test_the_clients_credentials_travel_if_configured() -> None:
    async with FakeEngine() as engine, serving(engine, server={"forward_authorization": True}) as served:
        request, _ = await exchange(served, engine, authorization="Bearer mine")
    assert request.header("authorization") == b"Bearer mine"


@pytest.mark.parametrize("forward", [False, True])
async def test_an_endpoints_own_key_replaces_the_clients(forward: bool) -> None:
    async with (
        FakeEngine() as engine,
        serving({"url": engine.url, "api_key": "engine-key"}, server={"forward_authorization": forward}) as served,
    ):
        request, head = await exchange(served, engine, authorization="Bearer mine", x_api_key="mine")
    values = [value for name, value in request.headers if name.lower() in (b"authorization", b"x-api-key")]
    assert values == [b"Bearer engine-key"]
    assert "engine-key" not in str(head)


async def test_probes_carry_the_endpoints_key() -> None:
    async with FakeEngine() as engine, serving({"url": engine.url, "api_key": "engine-key"}):
        pass
    assert engine.probed
    assert all(probe.header("authorization") == b"Bearer engine-key" for probe in engine.probed)


async def test_a_request_id_is_kept_on_both_sides() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        request, head = await exchange(served, engine, x_request_id="my-id/7")
    assert request.header("x-request-id") == b"my-id/7"
    assert head.headers["x-request-id"] == "my-id/7"


@pytest.mark.parametrize("bad", ["", "x" * 129, "x" * 10_000, "with space", "caf\xe9", "tab\tand more"])
async def test_a_request_id_is_made_where_there_is_no_proper_one(bad: str) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        request, head = await exchange(served, engine, **({"x_request_id": bad} if bad else {}))
    made = head.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert request.header("x-request-id") == made.encode()
    names = [name.lower() for name, _ in request.headers]
    assert names.count(b"x-request-id") == 1


async def test_an_answer_names_its_endpoint_and_policy() -> None:
    async with FakeEngine() as engine, serving({"url": engine.url, "name": "node a/1"}) as served:
        _, head = await exchange(served, engine)
    assert head.headers["x-llmgate-endpoint"] == "node a/1"
    assert head.headers["x-llmgate-policy"] == "round-robin"


NASTY: Sequence[bytes] = (
    b"HTTP/1.1 200 OK\r\nx-evil: a\0b\r\ncontent-length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nx-evil: a\rb\r\ncontent-length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
)


@pytest.mark.parametrize("reply", NASTY, ids=["NUL", "CR", "two lengths"])
async def test_a_head_that_is_not_proper_http_is_a_502(reply: bytes) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        _, head = await exchange(served, engine, reply)
    assert head.status == 502
    assert "x-evil" not in head.headers


async def test_engines_are_told_the_clients_address_only_if_that_is_wanted() -> None:
    told: list[list[bytes]] = []
    claims = {"x_forwarded_for": "1.1.1.1, 198.51.100.1", "forwarded": "for=2.2.2.2"}
    for server in (
        {},
        {"send_client_address": True},
        {"send_client_address": True, "trusted_proxies": ["127.0.0.0/8"]},
        {"send_client_address": True, "trusted_proxies": ["127.0.0.1"], "forwarded_header": "forwarded"},
    ):
        async with FakeEngine([completion()]) as engine, serving(engine, server=server) as served:
            await served.chat(HELLO, **claims)
            await served.client.post(f"{CHAT}?query=1", json=HELLO, headers={"x-forwarded-for": "198.51.100.1"})
        told += [[value for name, value in request.headers if b"forwarded" in name] for request in engine.asked]
    assert told == [
        [], [], [b"127.0.0.1"], [b"127.0.0.1"], [b"198.51.100.1"], [b"198.51.100.1"], [b"2.2.2.2"], [b"127.0.0.1"]
    ]  # fmt: skip
