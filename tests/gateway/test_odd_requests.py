"""Paths and bodies that two programs could take for different ones: refused, or sent on as they came."""

from __future__ import annotations

import json

import pytest

from tests.support.fake_engine import FakeEngine, completion
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, serving


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions%00",
        "/v1/chat/completions%0d%0ax-a:%20b",
        "/v1/chat/completions/..",
        "/v1/../admin",
        "/v1/x/%2e%2e/load_lora_adapter",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1\\chat\\completions",
        "/v1/chat/completions\\..",
        "/v1/chat/completions%5c..",
        "/v1/chat/c\xc0\xafompletions",
        "/v1/chat/%c0%afcompletions",
        "/V1/chat/completions",
        "/v1/chat/completions;a=b",
        "/v1/chat/completions%20",
        "/v1/load%5flora_adapter",
    ],
)
async def test_a_path_that_is_only_like_a_route_is_none(path: str) -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO, path))
        assert (await client.head()).status in (400, 404)
        assert not engine.asked


async def test_a_route_that_is_written_in_escapes_goes_out_as_it_came() -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO, "/v1/chat/%63ompletions?a=%2e%2e"))
        assert (await client.head()).status == 200
        assert engine.asked[0].path == b"/v1/chat/%63ompletions?a=%2e%2e"


DEEP = b'{"model": "m", "messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
MESSAGES = b'"messages": [{"role": "user", "content": "Hello"}]'


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"model": "m", "metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b'{"model": "m", "model": "m", %b}' % MESSAGES,
        b'{"model": "m", "temperature": 1e400, %b}' % MESSAGES,
        b'{"model": "m", "temperature": NaN, %b}' % MESSAGES,
        b'{"model": "m", "max_tokens": 1e400, %b}' % MESSAGES,
        b'{"model": "m", "max_tokens": -1, %b}' % MESSAGES,
        b'{"model": "m", "max_tokens": 99999999999999999999999, %b}' % MESSAGES,
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 10_000_000),
        b'{"model": "m", "user": {"a": [1]}, "stream": "yes", %b}' % MESSAGES,
        b'\xef\xbb\xbf{"model": "m", %b}' % MESSAGES,
        b'{"model": "m", %b} {"model": "other"}' % MESSAGES,
    ],
    ids=[
        "deep",
        "deep metadata",
        "two models",
        "1e400",
        "NaN",
        "max 1e400",
        "max -1",
        "huge",
        "surrogate",
        "no UTF-8",
        "10 MB",
        "types",
        "BOM",
        "two",
    ],
)
async def test_an_odd_body_is_a_400_or_reaches_the_engine_as_it_came(body: bytes) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        answered = await served.chat(body)
        if answered.status_code == 200:
            assert engine.asked[0].body == body
        else:
            assert answered.status_code == 400
            assert answered.json()["error"]["type"] == "invalid_request_error"
            assert not engine.asked


@pytest.mark.parametrize("second", [b'"model"', b'"\\u006dodel"', b'"mod\\u0065l"'])
async def test_two_models_are_a_400(second: bytes) -> None:
    """Python's JSON takes the last, others the first: an engine must not get a model that the gateway did not mean."""
    body = b'{"model": "m", %b, %b: "other"}' % (MESSAGES, second)
    async with FakeEngine([completion()], models=["m", "other"]) as engine, serving(engine) as served:
        assert (await served.chat(body)).status_code == 400
        assert not engine.asked


async def test_a_get_with_a_body_leaves_the_connection_in_order() -> None:
    async with FakeEngine() as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        body = post(HELLO)
        client.send(b"GET /health HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        assert (await client.answer())[0].status == 200
        client.send(b"HEAD /health HTTP/1.1\r\nhost: g\r\n\r\n")
        assert (await client.head()).status == 200
        client.send(b"GET /ready HTTP/1.1\r\nhost: g\r\n\r\n")
        assert (await client.answer())[0].status == 200
        assert not engine.asked


async def test_a_chunk_extension_of_64_kib_is_skipped() -> None:
    content = json.dumps(HELLO).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(head + b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(content), b"a=" + b"b" * 65_536, content))
        assert (await client.head()).status == 200
        assert engine.asked[0].body == content


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413_that_no_engine_sees(chunked: bool) -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine, server={"body_limit": 100_000}) as served,
        connect(served.gateway.data_port) as client,
    ):
        body = json.dumps(HELLO | {"user": "x" * 100_000}).encode()
        if chunked:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            client.send(head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:60_000], body[60_000:])))
        else:
            client.send(post(body))
        assert (await client.head()).status == 413
        assert not engine.asked
        assert served.gateway.gate.buffered == 0
