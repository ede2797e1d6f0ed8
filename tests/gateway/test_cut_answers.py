"""An answer that is cut at any of its bytes: told by another engine or seen to be broken, never taken for a whole."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from itertools import count

import httpx2
import pytest

from llmgate.gateway import answer as answering
from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    Act,
    Handler,
    ReceivedRequest,
    chunk,
)
from tests.support.fake_engine import FakeEngine, completion, gone, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, serving

WHOLE = completion()
STREAM = b"".join(stream(*sse({"choices": [{"delta": {"content": "a"}}]}, {"usage": {"prompt_tokens": 1}})))
PATIENT = {"strikes": 1000}


def body_of(raw: bytes) -> int:
    """Where the first byte of an answer's body is complete: up to there the client has seen nothing."""
    at = raw.index(b"\r\n\r\n") + 4
    return at + 1 if b"content-length" in raw[:at] else raw.index(b"\r\n", at) + 3


def breaking(raw: bytes, cuts: Iterator[int], end: Act) -> Handler:
    """Each first attempt gets `raw` up to the next cut, each second the whole of it."""
    seen: set[bytes | None] = set()

    async def handle(request: ReceivedRequest) -> None:
        request_id = request.header("x-request-id")
        if request_id in seen:
            await request.send(raw)
        else:
            seen.add(request_id)
            await request.run([raw[: next(cuts)], end])

    return handle


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("raw", [WHOLE, STREAM], ids=["whole", "stream"])
async def test_an_answer_cut_at_any_byte_is_fetched_elsewhere_or_seen_to_be_broken(raw: bytes, end: Act) -> None:
    """Never a clean end of half an answer, never a second engine once the client has seen something."""
    handler = breaking(raw, count(), end)
    request = STREAMED if raw is STREAM else HELLO
    async with (
        FakeEngine(handler) as a,
        FakeEngine(handler) as b,
        serving(a, b, health=PATIENT, retries={"floor": 1e6, "burst": 1e6}, usage={"inject": "never"}) as served,
    ):
        good = None
        for cut in range(len(raw)):
            before = len(a.asked) + len(b.asked)
            try:
                answered = (await served.chat(request)).content
                broken = b'"error"' in answered
            except httpx2.RemoteProtocolError:
                answered, broken = b"", True
            asked = len(a.asked) + len(b.asked) - before
            if cut < body_of(raw):
                assert (asked, broken) == (2, False), cut
                good = good or answered
                assert answered == good, cut
            else:
                assert (asked, broken) == (1, True), cut
                assert raw is WHOLE or not answered.rstrip().endswith(b"[DONE]"), cut
            await served.settled()


def events_in(text: bytes) -> list[tuple[bytes, bytes]]:
    """Type and data of each event, as a client understands them."""
    events = []
    kind, data = b"", list[bytes]()
    for line in re.split(rb"\r\n|\n|\r", text)[:-1]:
        if not line:
            if data:
                events.append((kind, b"\n".join(data)))
            kind, data = b"", []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            kind = line[6:].strip()
    return events


CHUNKS = sse({"choices": [{"delta": {"content": "a\u00e9"}}]}, {"choices": [], "usage": {"prompt_tokens": 1}})
MESSAGES = [
    b'event: message_start\ndata: {"type": "message_start"}\n\n',
    b'event: content_block_delta\ndata: {"type": "content_block_delta"}\n\n',
]


@pytest.mark.parametrize(
    ("path", "events", "inject"),
    [
        (CHAT, CHUNKS, "never"),
        (CHAT, CHUNKS, "always"),
        (CHAT, [event.replace(b"\n", b"\r\n") for event in CHUNKS], "never"),
        ("/v1/messages", MESSAGES, "never"),
    ],
    ids=["chunks", "edited", "CRLF", "messages"],
)
async def test_the_error_of_a_cut_stream_is_an_event_of_its_own(path: str, events: list[bytes], inject: str) -> None:
    """Wherever the cut: within a line, between the lines of an event, before the empty line that ends it. An event of
    which a half went out already is the only one that the client cannot read."""
    raw = b"".join(stream(*events))
    whole = events_in(b"".join(events))
    begin = raw.index(b"\r\n", len(STREAM_HEAD)) + 3
    async with (
        FakeEngine(breaking(raw, count(begin), RESET)) as engine,
        serving(engine, health=PATIENT, usage={"inject": inject}) as served,
    ):
        for cut in range(begin, len(raw)):
            answered = await served.client.post(path, json=STREAMED)
            *before, (kind, error) = events_in(answered.content)
            assert json.loads(error)["error"], cut
            assert kind == (b"error" if events is MESSAGES else b""), cut
            if inject == "always":
                assert all(event in whole for event in before), cut
            else:
                *before, last = before or [whole[0]]
                assert before == whole[: len(before)], cut
                assert whole[len(before)][1].startswith(last[1]), cut


async def test_a_stream_that_is_put_together_is_fetched_elsewhere_wherever_it_is_cut() -> None:
    """The client has seen nothing of it."""
    raw = b"".join(stream(*sse({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})))
    handler = breaking(raw, count(), CLOSE)
    async with (
        FakeEngine(handler) as a,
        FakeEngine(handler) as b,
        serving(
            *({"url": engine.url, "engine": "llamacpp"} for engine in (a, b)),
            health=PATIENT,
            retries={"floor": 1e6, "burst": 1e6},
        ) as served,
    ):
        for cut in range(len(raw)):
            answered = await served.chat()
            assert answered.json()["choices"][0]["message"]["content"] == "a", cut
            assert len(a.asked) + len(b.asked) == 2 * (cut + 1)


@pytest.mark.parametrize("raw", [WHOLE, STREAM], ids=["whole", "stream"])
async def test_behind_a_head_of_the_gateways_own_an_error_event_ends_what_is_cut(raw: bytes) -> None:
    for cut in (0, 20, body_of(raw), body_of(raw) + 7, len(raw) - 1):
        async with (
            FakeEngine() as engine,
            serving(engine, server={"stream_keep_alive": 0.02}, usage={"inject": "never"}) as served,
            connect(served.gateway.data_port) as client,
        ):
            client.send(post(STREAMED))
            request = await engine.request()
            head = await client.head()
            await request.run([raw[:cut], RESET])
            *_, (_, error) = events_in(await client.body(head))
            assert json.loads(error)["error"]["code"] in ("connection_lost", "truncated"), cut
            await served.settled()


async def test_behind_a_head_of_the_gateways_own_an_answer_without_an_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is no stream must be whole before it can be an event."""
    monkeypatch.setattr(answering, "MOST_HELD", 1_000_000)
    async with (
        FakeEngine() as engine,
        serving(engine, server={"stream_keep_alive": 0.02}, usage={"inject": "never"}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        request = await engine.request()
        head = await client.head()
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            await request.send(chunk(b" " * 65_536))
        *_, (_, error) = events_in(await client.body(head))
        assert json.loads(error)["error"]["code"] == "protocol_violation"
        await gone(request)


async def test_a_compressed_stream_that_is_cut_ends_as_a_broken_connection() -> None:
    """An error event would be no part of it."""
    packed = gzip.compress(b"".join(CHUNKS))
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    raw = head + chunk(packed) + LAST_CHUNK
    begin = raw.index(b"\r\n", len(head)) + 3
    async with (
        FakeEngine(breaking(raw, count(begin), RESET)) as engine,
        serving(engine, health=PATIENT) as served,
    ):
        for _ in range(begin, len(raw)):
            with pytest.raises(httpx2.RemoteProtocolError):
                await served.chat(STREAMED)
            await served.settled()
