"""What the demo asks through the gateway, as events for whoever shows them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from llmgate.core.errors import LlmgateError

Message = dict[str, str]

MAX_TOKENS: Final = 60  # a second or so of SmolLM2-135M on one core
# A hundred tokens of system prompt, long enough to be worth finding in an engine's cache at the second turn.
SYSTEM: Final = (
    "You are the guide of a small museum of computing. You answer visitors in one or two short sentences and in "
    "plain words. You know the collection well: the abacus, the Jacquard loom, Babbage's engines, the punched card, "
    "the relay machines of the thirties, the valve machines of the forties, the first transistors, the first "
    "integrated circuits, the minicomputer, the home computer, the network, and the machines that learn. When you do "
    "not know, you say so."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request goes out."""

    question: str
    stream: bool
    turn: int  # of its conversation, from 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer came; one piece in all when the answer is not streamed."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is complete. Times are seconds since the request went out; `cached_tokens` is None if not told."""

    endpoint: str
    text: str
    first_text_s: float
    total_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None


Event = Asked | Piece | Answered


class DemoFailed(LlmgateError):
    """A request of the demo was not answered as it should be. The message is one sentence."""

    code = "demo_failed"


async def demo_requests(client: httpx2.AsyncClient, model: str) -> AsyncIterator[Event]:
    """Four chat requests: two questions on their own, then a conversation of two turns, which stays on one engine.

    `client` has the gateway as its base URL. Raises DemoFailed when an answer is an error or is cut off.
    """
    for question, stream in (("What is a load balancer, in one sentence?", True), ("Name three colours.", False)):
        async for event in ask(client, model, [{"role": "user", "content": question}], stream=stream):
            yield event
    conversation: list[Message] = [{"role": "system", "content": SYSTEM}]
    for turn, (question, stream) in enumerate(
        (("Who was Charles Babbage?", True), ("And what did he build?", False)), start=1
    ):
        conversation.append({"role": "user", "content": question})
        async for event in ask(client, model, conversation, stream=stream, turn=turn):
            yield event
            if isinstance(event, Answered):
                conversation.append({"role": "assistant", "content": event.text})


async def ask(
    client: httpx2.AsyncClient, model: str, messages: Sequence[Message], *, stream: bool, turn: int = 1
) -> AsyncIterator[Event]:
    """Asks the last of `messages`: Asked, then one Piece or more, then Answered. Raises DemoFailed."""
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0.2}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    yield Asked(messages[-1]["content"], stream, turn)
    start = time.perf_counter()
    first = 0.0
    texts: list[str] = []
    usage: dict[str, Any] = {}
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                detail = (await response.aread()).decode(errors="replace")[:300]
                raise DemoFailed(f"The gateway answered {response.status_code}: {detail}")
            async for chunk in _chunks(response, stream):
                usage = chunk.get("usage") or usage
                for text in _texts(chunk):
                    first = first or time.perf_counter() - start
                    texts.append(text)
                    yield Piece(text)
    except httpx2.HTTPError as error:
        raise DemoFailed(f"The gateway did not answer: {error or type(error).__name__}.") from error
    yield Answered(
        endpoint=response.headers.get("x-llmgate-endpoint", ""),
        text="".join(texts),
        first_text_s=first,
        total_s=time.perf_counter() - start,
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
    )


async def _chunks(response: httpx2.Response, stream: bool) -> AsyncIterator[dict[str, Any]]:
    if not stream:
        yield json.loads(await response.aread())
        return
    async for line in response.aiter_lines():
        field, _, data = line.partition(": ")
        if data == "[DONE]":
            return
        if field == "data":
            chunk = json.loads(data)
            if "error" in chunk:
                raise DemoFailed(f"The answer broke off: {chunk['error'].get('message', chunk['error'])}")
            yield chunk
    raise DemoFailed("The answer broke off before its end.")


def _texts(chunk: dict[str, Any]) -> Iterator[str]:
    for choice in chunk.get("choices", ()):
        if text := (choice.get("delta") or choice.get("message") or {}).get("content"):
            yield text
