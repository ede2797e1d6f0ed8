"""What clients and engines send passes as it is, but for the `model` value where the two call it differently."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, answer, chunk
from tests.support.fake_engine import DONE, FakeEngine, completion, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

STREAMS = Path(__file__).parent.parent / "data" / "streams"
RECORDED = {file.stem: file.read_bytes() for file in sorted(STREAMS.glob("*.sse"))}
ODD_BODY = (
    b' {"messages" : [ {"role":"user","content":"caf\\u00e9 \xf0\x9f\x8e\x89 \\"model\\": 1"} ],\r\n\t"model":"m" , '
    b'"unknown":{"model":"not this"},"big":12345678901234567890123,"float":1.0e-7,"temperature":0.10}\n'
)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as engine:
        yield engine


async def posted(served: Served, path: str, body: bytes) -> asyncio.Task[bytes]:
    async def send() -> bytes:
        return (await served.client.post(path, content=body)).content

    return asyncio.create_task(send())


async def test_a_request_body_reaches_the_engine_byte_for_byte(engine: FakeEngine) -> None:
    async with serving(engine) as served:
        asked = await posted(served, CHAT, ODD_BODY)
        request = await engine.request()
        await request.send(completion())
        await asked
    assert request.body == ODD_BODY
    assert request.header("content-length") == b"%d" % len(ODD_BODY)
    assert request.header("transfer-encoding") is None


async def test_a_body_without_a_model_stays_without_one(engine: FakeEngine) -> None:
    body = b'{"messages": []}'
    async with serving(engine) as served:
        asked = await posted(served, CHAT, body)
        request = await engine.request()
        await request.send(completion())
        await asked
    assert request.body == body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "m", "messages": []}),
        ("/v1/completions", {"model": "m", "prompt": "Hello"}),
        ("/v1/embeddings", {"model": "m", "input": ["Hello", "world"]}),
        ("/v1/completions?api-version=2&x=%2F", {"model": "m", "prompt": [1, 2, 3]}),
    ],
)
async def test_an_answer_reaches_the_client_byte_for_byte(
    engine: FakeEngine, path: str, body: dict[str, object]
) -> None:
    whole = b'{ "object":"any",\r\n "data":[1.50, "\xe2\x82\xac"], "usage":{"prompt_tokens":1}}'
    async with serving(engine) as served:
        asked = await posted(served, path, json.dumps(body).encode())
        request = await engine.request()
        await request.send(answer(whole))
        assert await asked == whole
    assert request.path == path.encode()


async def test_alias_and_served_name_change_the_model_value_only(engine: FakeEngine) -> None:
    endpoint = {"url": engine.url, "models": [{"name": "public", "served_as": 'the "served" one/1'}]}
    async with serving(endpoint, models=[{"name": "public", "aliases": ["gpt-4o"]}]) as served:
        for name in (b"public", b"gpt-4o", b"gpt\\u002d4o"):
            body = ODD_BODY.replace(b'"model":"m"', b'"model":"%b"' % name)
            asked = await posted(served, CHAT, body)
            request = await engine.request()
            await request.send(completion())
            await asked
            expected = ODD_BODY.replace(b'"model":"m"', b'"model":"the \\"served\\" one/1"')
            assert request.body == expected


async def test_a_stream_arrives_chunk_by_chunk_as_the_engine_sends_it(engine: FakeEngine) -> None:
    events = sse({"n": 1}, {"n": 2}, {"n": 3})
    async with serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(post(STREAMED))
        request = await engine.request()
        await request.send(STREAM_HEAD, chunk(events[0]))
        head = await client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        assert await client.chunk() == events[0]
        for event in events[1:]:
            await request.send(chunk(event))
            assert await client.chunk() == event
        await request.send(LAST_CHUNK)
        assert await client.chunk() == b""


@pytest.mark.parametrize("inject", ["auto", "never"])  # looked through for a usage chunk, and not
@pytest.mark.parametrize("name", list(RECORDED))
async def test_a_recorded_stream_passes_byte_for_byte_wherever_it_is_cut(name: str, inject: str) -> None:
    recorded = RECORDED[name]
    random = Random(name)
    cuts = [0, *sorted(random.sample(range(1, len(recorded)), 40)), len(recorded)]
    pieces = [recorded[start:end] for start, end in itertools.pairwise(cuts)]
    async with FakeEngine(stream(*pieces)) as engine, serving(engine, usage={"inject": inject}) as served:
        answered = await served.chat(STREAMED)
    assert answered.content == recorded


async def test_a_big_answer_passes_whole() -> None:
    big = Random(1).randbytes(3_000_000)
    async with FakeEngine([answer(big)]) as engine, serving(engine) as served:
        assert (await served.chat()).content == big


async def test_a_big_request_passes_whole(engine: FakeEngine) -> None:
    body = json.dumps(HELLO | {"messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
    async with serving(engine) as served:
        asked = await posted(served, CHAT, body)
        request = await engine.request()
        await request.send(completion())
        await asked
    assert request.body == body


async def test_an_answer_that_ends_with_the_connection_is_whole(engine: FakeEngine) -> None:
    async with serving(engine) as served:
        asked = await posted(served, CHAT, json.dumps(HELLO).encode())
        request = await engine.request()
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", b'{"a":', b"1}")
        request.connection.close()
        assert await asked == b'{"a":1}'


async def test_an_empty_answer_is_whole(engine: FakeEngine) -> None:
    """Where no tokens are to be made: an empty answer to a chat is none."""
    async with serving(engine) as served:
        asked = await posted(served, "/v1/embeddings", json.dumps(HELLO).encode())
        await (await engine.request()).send(answer(b""))
        assert await asked == b""


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", 304),
    ],
)
async def test_an_answer_without_a_body_stays_without_one(engine: FakeEngine, raw: bytes, status: int) -> None:
    async with serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(post(HELLO))
        await (await engine.request()).send(raw)
        head = await client.head()
        assert head.status == status
        assert "transfer-encoding" not in head.headers
        client.send(post(HELLO))  # nothing of the first answer is left on the connection
        await (await engine.request()).send(answer(b"second"))
        assert (await client.answer())[1] == b"second"


async def test_usage_at_the_end_of_an_answer_is_counted() -> None:
    events = sse({"choices": [{"delta": {}}]}, {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}})
    scripts = {CHAT: stream(*events), "/v1/completions": [completion(prompt_tokens=20, completion_tokens=9)]}
    for (path, script), tokens in zip(scripts.items(), ((11, 5), (20, 9)), strict=True):
        async with FakeEngine(script) as engine, serving(engine) as served:
            await served.client.post(path, json={"model": "m", "prompt": "Hello"})
            for kind, count in zip(("prompt", "completion"), tokens, strict=True):
                series = f'llmgate_tokens_total{{model="m",endpoint="a",kind="{kind}"}}'
                assert await served.metric(series) == count


async def test_a_stream_without_usage_is_counted_by_its_events() -> None:
    async with FakeEngine(stream(*sse({"n": 1}, {"n": 2}, {"n": 3}))) as engine, serving(engine) as served:
        answered = await served.chat(STREAMED)
        assert answered.content.endswith(DONE)
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="completion"}') == 3
