"""Engines that talk too much, or answer with what is no answer."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from llmgate.gateway import answer as answering
from llmgate.testing.fake_upstream import (
    LAST_CHUNK,
    STREAM_HEAD,
    ReceivedRequest,
    Script,
    answer,
    chunk,
)
from tests.support.fake_engine import JSON, FakeEngine, completion, gone, in_turn, sse, until
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, serving

WHOLE = completion()


ENCODED = [
    STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"),
    chunk(gzip.compress(b"".join(sse({"usage": {"prompt_tokens": 1}})))),
    LAST_CHUNK,
]


@pytest.mark.parametrize("inject", ["never", "always"])
async def test_a_compressed_stream_passes_as_it_is(inject: str) -> None:
    async with FakeEngine(ENCODED) as engine, serving(engine, usage={"inject": inject}) as served:
        answered = await served.chat(STREAMED)
        assert answered.content == b"".join(sse({"usage": {"prompt_tokens": 1}}))  # as the client unpacks it
        assert answered.headers["content-encoding"] == "gzip"


async def test_a_compressed_whole_answer_passes_as_it_is_where_it_would_be_edited() -> None:
    body = gzip.compress(b'{"model": "served"}')
    reply = answer(body, headers=[JSON, (b"content-encoding", b"gzip")])
    async with (
        FakeEngine([reply], models=["served"]) as engine,
        serving(
            {"url": engine.url, "models": [{"name": "m", "served_as": "served"}]},
            server={"rewrite_answer_model": True},
        ) as served,
    ):
        assert (await served.chat()).json() == {"model": "served"}


async def test_a_compressed_stream_that_had_to_be_read_is_a_502() -> None:
    """A client of llama.cpp that wants no stream gets what a stream says."""
    async with FakeEngine(ENCODED) as engine, serving({"url": engine.url, "engine": "llamacpp"}) as served:
        answered = await served.chat()
        assert (answered.status_code, answered.json()["error"]["code"]) == (502, "protocol_violation")


async def test_a_compressed_stream_after_the_gateways_own_head_ends_with_an_error_event() -> None:
    late = asyncio.Event()
    async with (
        FakeEngine([late, *ENCODED]) as engine,
        serving(engine, server={"stream_keep_alive": 0.05}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        head = await client.head()
        late.set()
        assert b"protocol_violation" in await client.body(head)
        assert "content-encoding" not in head.headers


@pytest.mark.parametrize(
    "nothing",
    [
        [answer(b"<html>Welcome</html>", headers=[(b"content-type", b"text/html; charset=utf-8")])],
        [answer(b"")],
        [STREAM_HEAD, LAST_CHUNK],
    ],
    ids=["a web page", "empty", "an empty stream"],
)
async def test_a_200_that_is_no_answer_goes_to_the_next_endpoint(nothing: Script) -> None:
    handler = in_turn(nothing, [WHOLE])
    async with FakeEngine(handler) as a, FakeEngine(handler) as b, serving(a, b) as served:
        answered = await served.chat()
        assert answered.json()["choices"]
        second = answered.headers["x-llmgate-endpoint"]
        first = "a" if second == "b" else "b"
        assert await served.metric(f'llmgate_retries_total{{endpoint="{first}",reason="protocol_violation"}}') == 1


async def test_where_nobody_has_an_answer_the_client_is_told_so() -> None:
    async with FakeEngine([answer(b"")]) as engine, serving(engine) as served:
        answered = await served.chat()
        assert (answered.status_code, answered.json()["error"]["code"]) == (502, "protocol_violation")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_an_engines_redirect_loses_its_address(status: int) -> None:
    reply = answer(b"", status, [(b"location", b"http://10.0.0.5:8000/v1/chat/completions/"), (b"x-kept", b"1")])
    async with FakeEngine([reply]) as engine, serving(engine) as served:
        answered = await served.chat()
        assert answered.status_code == status
        assert "location" not in answered.headers
        assert answered.headers["x-kept"] == "1"
        assert len(engine.asked) == 1


@pytest.mark.parametrize("name", ["x_llmgate_priority", "x.llmgate.slo", "x_vllm_priority", "X_Request_Id", "x_api_key",
                                  "content_length", "transfer_encoding", "x_forwarded.for", "x_forwarded_user",
                                  "x_prefiller_host_port"])  # fmt: skip
async def test_a_name_that_a_careless_server_takes_for_one_of_ours_is_dropped(name: str) -> None:
    async with (
        FakeEngine([WHOLE]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO).replace(b"\r\n\r\n", f"\r\n{name}: canary\r\nx_mine: kept\r\n\r\n".encode(), 1))
        assert (await client.head()).status == 200
    assert b"canary" not in engine.asked[0].raw
    assert engine.asked[0].header("x_mine") == b"kept"


ENDLESS = b"x" * 65_536


async def endless(request: ReceivedRequest) -> None:
    """One event that has no end."""
    await request.send(STREAM_HEAD, chunk(b"data: "))
    while not request.connection.closed.is_set():
        await request.send(chunk(ENDLESS))
        await asyncio.sleep(0)  # a transport whose peer has gone takes everything at once


@pytest.mark.parametrize("inject", ["never", "always"])
async def test_an_event_of_100_mb_passes_and_is_not_kept(inject: str) -> None:
    """Nor does the gateway run ahead of a client: a stream without an end takes no more than one with."""
    async with (
        FakeEngine(endless) as engine,
        serving(engine, usage={"inject": inject}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        await client.head()
        taken = 0
        while taken < 100_000_000:
            taken += len(await client.chunk())
            assert served.unsent < 2_000_000
        client.leave()
        await gone(engine.asked[0])
        await served.settled()


async def test_an_answer_that_must_be_held_and_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of llama.cpp a client that wants no stream is told what a stream says."""
    monkeypatch.setattr(answering, "MOST_HELD", 1_000_000)
    async with FakeEngine(endless) as engine, serving({"url": engine.url, "engine": "llamacpp"}) as served:
        answered = await served.chat()
        assert (answered.status_code, answered.json()["error"]["code"]) == (502, "protocol_violation")
        await gone(engine.asked[0])


async def test_an_answer_that_would_be_edited_and_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MOST_HELD", 1_000_000)

    async def handler(request: ReceivedRequest) -> None:
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        while not request.connection.closed.is_set():
            await request.send(chunk(ENDLESS))
            await asyncio.sleep(0)

    async with (
        FakeEngine(handler, models=["served"]) as engine,
        serving(
            {"url": engine.url, "models": [{"name": "m", "served_as": "served"}]},
            server={"rewrite_answer_model": True},
        ) as served,
    ):
        assert (await served.chat()).status_code == 502
        await gone(engine.asked[0])


async def test_an_engine_that_answers_before_it_has_the_whole_request_is_not_sent_another_on_that_connection() -> None:
    """What is left of the first request would be taken for the second."""
    big = HELLO | {"messages": [{"role": "user", "content": "x" * 30_000_000}]}
    async with FakeEngine() as engine, serving(engine) as served:
        asking = asyncio.ensure_future(served.chat(big))
        connection = await engine.connected(len(engine.connections) + 1)
        connection.pause()
        await connection.send(answer(json.dumps({"error": "no"}).encode(), 413, [JSON]))
        assert (await asking).status_code == 413
        connection.resume()
        await until(connection.closed.is_set)


async def test_the_rest_of_an_answer_that_broke_off_is_not_the_next_one() -> None:
    """A connection with something wrong on it is not used again, whatever came of the request."""
    handler = in_turn([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" + WHOLE], [WHOLE])
    async with FakeEngine(handler) as engine, serving(engine) as served:
        assert (await served.chat()).content == b"hello"
        assert (await served.chat()).json()["choices"]
        assert engine.asked[0].connection is not engine.asked[1].connection
