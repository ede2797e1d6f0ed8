"""A stream whose engine takes its time is kept alive by comments, if configured; then no other engine may answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.core.types import TerminationCause
from llmgate.gateway.keep_alive import COMMENT
from llmgate.testing.fake_upstream import LAST_CHUNK, RESET, STREAM_HEAD, answer, chunk
from tests.support.fake_engine import DONE, JSON, FakeEngine, completion, gone, stream
from tests.support.raw_client import RawClient, connect, post
from tests.support.serving import HELLO, STREAMED, serving

SOON: dict[str, Any] = {"stream_keep_alive": 0.02}
EVENT = b'data: {"n": 1}\n\n'


async def comments(client: RawClient, count: int) -> None:
    for _ in range(count):
        assert await client.chunk() == COMMENT


async def rest(client: RawClient) -> bytes:
    """What comes but for comments."""
    body = b""
    while piece := await client.chunk():
        body += piece
    return body.replace(COMMENT, b"")


async def test_comments_come_until_the_engine_begins_and_its_bytes_pass_as_they_are() -> None:
    async with FakeEngine() as engine, serving(engine, server=SOON) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            head = await client.head()
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
            assert head.headers["x-llmgate-endpoint"] == "a"
            assert head.headers["x-request-id"]
            await comments(client, 2)
            await request.send(STREAM_HEAD)
            await comments(client, 2)  # the head alone is not yet an answer
            await request.send(chunk(EVENT), chunk(DONE), LAST_CHUNK)
            assert await rest(client) == EVENT + DONE
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.COMPLETED: 1}


async def test_a_quick_answer_and_one_that_is_no_stream_are_untouched() -> None:
    async with FakeEngine(stream(EVENT, DONE)) as quick, serving(quick, server={"stream_keep_alive": 60}) as served:
        assert (await served.chat(STREAMED)).content == EVENT + DONE
    async with (
        FakeEngine() as slow,
        serving(slow, server=SOON) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO))
        request = await slow.request()
        client.send(b"")
        await request.send(completion())
        head, body = await client.answer()
        assert (head.headers["content-type"], b"keep-alive" in body) == ("application/json", False)


async def test_before_the_first_comment_another_engine_may_answer_and_after_it_none() -> None:
    async with (
        FakeEngine([RESET]) as a,
        FakeEngine(stream(EVENT, DONE)) as b,
        serving(a, b, server={"stream_keep_alive": 60}) as served,
    ):
        for _ in range(2):
            assert (await served.chat(STREAMED)).content == EVENT + DONE
    async with FakeEngine() as a, FakeEngine(stream(EVENT, DONE)) as b, serving(a, b, server=SOON) as served:
        await served.admin.post("/api/endpoints/b/drain")
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await a.request()
            await served.admin.post("/api/endpoints/b/undrain")
            await client.head()
            await comments(client, 1)
            request.connection.reset()
            error = json.loads((await rest(client)).removeprefix(b"data: "))["error"]
            assert error["code"] == "connection_lost"
        assert not b.asked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{\n "error": {"message": "too long",\n "code": 400}}', "too long"),
        (b"<html>no</html>", "The engine answered 400, and not with JSON."),
        (b"", "The engine answered 400, and not with JSON."),
    ],
)
async def test_an_error_of_the_engine_after_a_comment_is_an_event_of_the_stream(body: bytes, said: str) -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server=SOON) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        request = await engine.request()
        await client.head()
        await comments(client, 1)
        await request.send(answer(body, 400, headers=[JSON]))
        event = await rest(client)
        assert (event[:6], event[-2:], event.count(b"\n")) == (b"data: ", b"\n\n", 2)
        assert json.loads(event[6:])["error"]["message"] == said


async def test_a_client_that_leaves_between_comments_frees_its_engine() -> None:
    async with FakeEngine() as engine, serving(engine, server=SOON) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            await client.head()
            await comments(client, 1)
            client.leave()
            await gone(request)
            await served.settled()
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.CLIENT_GONE: 1}


async def test_requests_out_of_the_ordinary_are_kept_alive_as_well() -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server=SOON) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED, path="/v1/chat/completions?query=1"))
        request = await engine.request()
        await client.head()
        await comments(client, 2)
        await request.send(STREAM_HEAD, chunk(EVENT), chunk(DONE), LAST_CHUNK)
        assert await rest(client) == EVENT + DONE


async def test_at_the_end_of_the_drain_a_kept_stream_is_told_why_it_ends() -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server=SOON, timeouts={"drain": 0.1}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        await engine.request()
        await client.head()
        await comments(client, 1)
        served.gateway.stop()
        error = json.loads((await rest(client)).removeprefix(b"data: "))["error"]
        assert error["code"] == "shutting_down"
        await served.ends()


@pytest.mark.parametrize(
    ("status", "event"),
    [(200, b'data: {"type":"message"}\n\n'), (400, b'event: error\ndata: {"type":"message"}\n\n')],
)
async def test_a_whole_answer_to_messages_is_told_as_an_error_only_if_it_is_one(status: int, event: bytes) -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server=SOON) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED, "/v1/messages"))
        request = await engine.request()
        await client.head()
        await comments(client, 1)
        await request.send(answer(b'{"type":"message"}', status, [JSON]))
        assert await rest(client) == event
