"""An answer that breaks after its first byte is never repeated, and never looks complete."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmgate.core.health import State
from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import CLOSE, RESET, STREAM_HEAD, Act, answer, chunk
from tests.support.fake_engine import FakeEngine, gone
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, Served, serving

EVENT = b'data: {"n": 1}\n\n'


def error_in(event: bytes) -> dict[str, str]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    error: dict[str, str] = json.loads(event.removeprefix(b"data: "))["error"]
    return error


def causes(served: Served) -> dict[TerminationCause, int]:
    return dict(served.gateway.scheduler.ledger.causes)


@pytest.mark.parametrize("end", [CLOSE, RESET, b"not a chunk\r\n"], ids=["closed", "reset", "nonsense"])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_without_done(end: Act | bytes) -> None:
    broken = asyncio.Event()
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENT), broken, end]) as a,
        FakeEngine([STREAM_HEAD, chunk(EVENT), broken, end]) as b,
        serving(a, b) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        head = await client.head()
        assert await client.chunk() == EVENT
        broken.set()
        rest = await client.body(head)
        assert error_in(rest)["code"] == "truncated"
        assert b"[DONE]" not in rest
        assert len(a.asked) + len(b.asked) == 1
        assert causes(served) == {TerminationCause.UPSTREAM_ERROR: 1}
        broken_on = [f'llmgate_broken_answers_total{{model="m",endpoint="{name}"}}' for name in "ab"]
        assert sum([await served.metric(line) for line in broken_on]) == 1, "its status, 200, does not tell"


async def test_a_stream_with_a_length_that_breaks_ends_with_an_error_event_too() -> None:
    broken = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000\r\n\r\n"
    async with (
        FakeEngine([head + EVENT, broken, CLOSE]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        answered = await client.head()
        assert await client.chunk() == EVENT
        broken.set()
        assert error_in(await client.body(answered))["code"] == "truncated"


@pytest.mark.parametrize(("inject", "closed_off"), [("never", b"\n\n"), ("auto", b"")])
async def test_a_break_within_an_event_is_closed_off_before_the_error_event(inject: str, closed_off: bytes) -> None:
    """Where the usage that was asked for is looked for in the stream, a cut event is not sent in the first place."""
    broken = asyncio.Event()
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENT + b'data: {"cut'), broken, RESET]) as engine,
        serving(engine, usage={"inject": inject}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        head = await client.head()
        await client.chunk()
        broken.set()
        rest = await client.body(head)
    assert rest.startswith(closed_off + b"data: {")
    assert error_in(rest.removeprefix(closed_off))["code"] == "truncated"


async def test_a_stream_that_falls_silent_ends_with_an_error_event() -> None:
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENT)]) as engine,
        serving(engine, timeouts={"idle": 0.1}) as served,
    ):
        answered = await served.chat(STREAMED)
        assert answered.content.startswith(EVENT)
        assert error_in(answered.content.removeprefix(EVENT))["code"] == "idle_timeout"
        await gone(engine.asked[0])
        assert causes(served) == {TerminationCause.UPSTREAM_TIMEOUT: 1}


@pytest.mark.parametrize("framing", [b"content-length: 100", b"transfer-encoding: chunked"], ids=["length", "chunked"])
async def test_a_broken_answer_that_is_no_stream_ends_as_a_broken_connection(framing: bytes) -> None:
    part = b'{"half": '
    sent = part if b"length" in framing else chunk(part)
    broken = asyncio.Event()
    async with (
        FakeEngine(
            [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b\r\n\r\n" % framing, sent, broken, RESET]
        ) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO))
        await client.head()
        await client.exactly(sent)
        broken.set()
        assert await client.rest() == b""  # no more bytes, and no last chunk
        assert causes(served) == {TerminationCause.UPSTREAM_ERROR: 1}


async def test_breaks_in_the_middle_count_against_health() -> None:
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENT), RESET]) as engine,
        serving(engine, health={"strikes": 2}) as served,
    ):
        for _ in range(2):
            await served.chat(STREAMED)
        assert served.state("a") is State.EJECTED


async def test_a_client_may_use_its_connection_again_after_an_error_event() -> None:
    async with (
        FakeEngine([STREAM_HEAD, chunk(EVENT), CLOSE]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        for _ in range(2):
            client.send(post(STREAMED))
            head, body = await client.answer()
            assert head.status == 200
            assert b'"code":"truncated"' in body


async def test_an_engines_error_passes_as_its_own_even_where_a_stream_was_asked_for() -> None:
    words = b'{"error":{"message":"too long"}}'
    async with (
        FakeEngine([answer(words, 400, [(b"content-type", b"application/json")])]) as engine,
        serving(engine) as served,
    ):
        answered = await served.chat(STREAMED)
    assert (answered.status_code, answered.content) == (400, words)
    assert answered.headers["content-type"] == "application/json"
