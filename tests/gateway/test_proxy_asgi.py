"""The application on any ASGI server: scripted receive and send in place of GatewayProtocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmgate.core.types import TerminationCause
from llmgate.gateway.client import AsgiClient
from llmgate.testing.fake_upstream import CLOSE, STREAM_HEAD, chunk
from tests.support.fake_engine import FakeEngine, completion, gone, sse, stream
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as engine:
        yield engine


@pytest.fixture
async def served(engine: FakeEngine) -> AsyncIterator[Served]:
    async with serving(engine) as served:
        yield served


class Call:
    """One call of the application. `pieces` is the body as it comes; `leave` says that the client has gone."""

    def __init__(
        self, served: Served, *pieces: bytes, method: str = "POST", path: str = CHAT, query: bytes = b""
    ) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._coming = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]
        self._left = asyncio.Event()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"mine")],
        }
        self.task = asyncio.create_task(served.gateway.app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def body(self) -> bytes:
        """What is left of the answer."""
        body: bytes = b""
        while True:
            message = await self.sent.get()
            body += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                return body

    async def _receive(self) -> dict[str, Any]:
        if self._coming:
            return self._coming.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.put_nowait(dict(message))


def dumped(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def test_a_request_in_pieces_passes_whole_with_its_query(engine: FakeEngine, served: Served) -> None:
    whole = dumped(HELLO)
    call = Call(served, whole[:10], b"", whole[10:], query=b"api-version=1")
    request = await engine.request()
    await request.send(completion())
    await call.task
    start = await call.sent.get()
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert dict(start["headers"])[b"x-request-id"] == b"mine"
    assert json.loads(await call.body())["choices"]
    assert (request.body, request.path) == (whole, f"{CHAT}?api-version=1".encode())


async def test_a_stream_passes_chunk_by_chunk(engine: FakeEngine, served: Served) -> None:
    call = Call(served, dumped(STREAMED))
    first, *others = sse({"n": 1}, {"n": 2})
    request = await engine.request()
    await request.send(STREAM_HEAD, chunk(first))
    assert (await call.sent.get())["status"] == 200
    assert (await call.sent.get())["body"] == first
    await request.send(*stream(*others)[1:])
    assert await call.body() == b"".join(others)
    await call.task


async def test_a_broken_stream_ends_with_an_error_event(engine: FakeEngine, served: Served) -> None:
    call = Call(served, dumped(STREAMED))
    await (await engine.request()).run([STREAM_HEAD, chunk(b"data: 1\n\n"), CLOSE])
    body = await call.body()
    assert b'"code":"truncated"' in body
    assert b"[DONE]" not in body
    await call.task


async def test_a_broken_answer_that_is_no_stream_is_left_unfinished(engine: FakeEngine, served: Served) -> None:
    call = Call(served, dumped(HELLO))
    await (await engine.request()).run([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", CLOSE])
    await call.task
    messages = [call.sent.get_nowait() for _ in range(call.sent.qsize())]
    assert [message.get("more_body") for message in messages] == [None, True]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_closes_the_engines_connection(
    engine: FakeEngine, served: Served, begun: bool
) -> None:
    call = Call(served, dumped(STREAMED))
    request = await engine.request()
    if begun:
        await request.send(STREAM_HEAD, chunk(b"data: 1\n\n"))
        await call.sent.get()
    call.leave()
    await gone(request)
    await call.task
    assert served.gateway.scheduler.ledger.causes == {TerminationCause.CLIENT_GONE: 1}


async def test_a_client_that_leaves_within_its_request_is_forgotten(engine: FakeEngine, served: Served) -> None:
    call = Call(served, b'{"half":', b"never comes")
    call._coming.pop()
    call.leave()
    await call.task
    assert call.sent.empty()
    assert not engine.asked


async def test_a_mistake_is_answered_in_openais_shape(served: Served) -> None:
    call = Call(served, b"{")
    await call.task
    assert (await call.sent.get())["status"] == 400
    assert "error" in json.loads(await call.body())


async def test_what_is_not_http_is_left_alone(served: Served) -> None:
    async def never(*_: object) -> Any:
        raise AssertionError("it was used")

    await served.gateway.app({"type": "lifespan"}, never, never)


async def test_a_send_that_was_cancelled_is_made_up_for() -> None:
    sent: list[bytes] = []
    stuck = asyncio.Event()

    async def send(message: Any) -> None:
        if message["body"] == b"two" and not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        sent.append(message["body"])

    scope = {"headers": [], "query_string": b"", "raw_path": b"/"}
    client = AsgiClient(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
    for piece in (b"one", b"two", b"three"):
        client.write(piece, True)
    sending = asyncio.create_task(client.drained())
    await stuck.wait()
    sending.cancel()
    await asyncio.wait([sending])
    client.write(b"four", False)
    await client.drained()
    assert sent == [b"one", b"two", b"three", b"four"]
