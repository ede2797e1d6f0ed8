from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence

import httpx2
import pytest

from llmgate.demo.engines import Engine
from llmgate.demo.flow import Answered, Asked, DemoFailed, Event, Piece, ask, demo_requests
from tests.engines import TINY_ENGINE

HELLO = [{"role": "user", "content": "Hello?"}]


def sse(*events: object) -> str:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


def delta(text: str) -> object:
    return {"choices": [{"delta": {"content": text}}]}


def gateway(handle: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(handle), base_url="http://gateway")


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_a_streamed_answer_comes_piece_by_piece_and_names_its_endpoint() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
    body = sse(delta("Hel"), delta("lo"), {"choices": [], "usage": usage}, "[DONE]")

    def handle(request: httpx2.Request) -> httpx2.Response:
        assert json.loads(request.content)["stream"] is True
        return httpx2.Response(200, text=body, headers={"x-llmgate-endpoint": "a"})

    async with gateway(handle) as client:
        asked, *pieces, answered = await collect(ask(client, "m", HELLO, stream=True))
    assert asked == Asked("Hello?", stream=True, turn=1)
    assert pieces == [Piece("Hel"), Piece("lo")]
    assert isinstance(answered, Answered)
    assert (answered.endpoint, answered.text) == ("a", "Hello")
    assert (answered.prompt_tokens, answered.completion_tokens, answered.cached_tokens) == (9, 2, 5)
    assert 0 < answered.first_text_s <= answered.total_s


async def test_the_conversation_carries_the_answers_along() -> None:
    seen: list[list[str]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        seen.append([message["role"] for message in body["messages"]])
        if body.get("stream"):
            return httpx2.Response(200, text=sse(delta("yes"), "[DONE]"))
        return httpx2.Response(200, json={"choices": [{"message": {"content": "yes"}}]})

    async with gateway(handle) as client:
        events = await collect(demo_requests(client, "m"))
    assert seen == [["user"], ["user"], ["system", "user"], ["system", "user", "assistant", "user"]]
    assert {event.stream for event in events if isinstance(event, Asked)} == {True, False}
    assert [event.turn for event in events if isinstance(event, Asked)] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx2.Response(503, json={"error": {"message": "no engine"}}), "answered 503.*no engine"),
        (httpx2.Response(200, text=sse(delta("Hel"))), "broke off before its end"),
        (httpx2.Response(200, text=sse(delta("Hel"), {"error": {"message": "lost"}})), "broke off: lost"),
    ],
    ids=["refused", "cut off", "error event"],
)
async def test_an_answer_that_is_not_whole_is_an_error(response: httpx2.Response, message: str) -> None:
    async with gateway(lambda request: response) as client:
        with pytest.raises(DemoFailed, match=message):
            await collect(ask(client, "m", HELLO, stream=True))


async def test_a_gateway_that_is_not_there_is_an_error() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    async with gateway(refuse) as client:
        with pytest.raises(DemoFailed, match="did not answer: connection refused"):
            await collect(ask(client, "m", HELLO, stream=False))


async def test_a_real_engine_answers_the_whole_demo(tiny_engines: Sequence[Engine]) -> None:
    async with httpx2.AsyncClient(base_url=tiny_engines[0].url, timeout=60) as client:
        events = await collect(demo_requests(client, TINY_ENGINE.alias))
    answers = [event for event in events if isinstance(event, Answered)]
    assert len(answers) == 4
    assert all(answer.completion_tokens > 0 and answer.text for answer in answers)
    assert (answers[-1].cached_tokens or 0) > 100
