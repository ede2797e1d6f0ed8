"""Reading answers: which events hold content, and what the answer says of its tokens. Sans-IO."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from llmgate.core.types import Usage
from llmgate.wire.usage import whole_usage


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None  # DeepSeek's name, and that of vLLM before 0.11
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: Any = None
    finish_reason: Any = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    error: Any = None


_events = msgspec.json.Decoder(_Event)


class Malformed(ValueError):
    """Not what an OpenAI server answers."""


class ErrorEvent(Exception):
    """The server reports, within a stream, that it failed."""


class StreamReader:
    """Server-sent events, wherever the reads cut them.

    `arrivals`: the time of each event that holds content: text, reasoning or a tool call; not the empty text of the
    first event of a chat.
    """

    __slots__ = ("_rest", "_usage", "arrivals", "done", "finished")

    def __init__(self, arrivals: array[float]) -> None:
        self.arrivals = arrivals
        self.done = False  # [DONE] has come
        self.finished = False  # a finish reason has come
        self._rest = b""
        self._usage = b""

    def feed(self, data: bytes, now: float) -> None:
        """The next bytes, read at `now` (s). Raises Malformed or ErrorEvent."""
        text = self._rest + data if self._rest else data
        if b"\r" in text:  # a CR at the very end may be half of a CRLF
            held = text.endswith(b"\r")
            text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + (b"\r" if held else b"")
        *events, self._rest = text.split(b"\n\n")
        for event in events:
            self._take(event, now)

    def end(self, now: float) -> None:
        """The body has ended well. Raises Malformed or ErrorEvent."""
        rest, self._rest = self._rest.strip(), b""
        if rest:
            self._take(rest, now)
        if not self.done and not self.finished and not self.arrivals:
            raise Malformed("the answer is no stream of chat or completion events")

    def usage(self) -> Usage | None:
        return whole_usage(self._usage) if self._usage else None

    def _take(self, event: bytes, now: float) -> None:
        if event.startswith(b"data:") and b"\n" not in event:
            payload = event[5:].strip()
        else:
            lines = (line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            payload = b"\n".join(lines)
            if not payload:
                return  # a comment, or an event without data
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            found = _events.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Malformed("an event of the stream is not the JSON of a chat or completion") from None
        if found.error is not None:
            raise ErrorEvent(error_message(payload) or "the server reported an error within the stream")
        for choice in found.choices:
            if choice.finish_reason is not None:
                self.finished = True
            if choice.text or (choice.delta is not None and _says_something(choice.delta)):
                self.arrivals.append(now)
                break
        if b'"usage"' in payload:
            self._usage = payload


def check_whole(body: bytes) -> Usage | None:
    """The usage of an answer that is not streamed. Raises Malformed if it is none of a chat or completion."""
    try:
        found = _events.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("the answer is not the JSON of a chat or completion") from None
    if not found.choices:
        raise Malformed("the answer has no choices")
    return whole_usage(body)


def error_message(body: bytes) -> str:
    """What an error answer says, in one line of at most 200 characters; "" if it says nothing readable."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    text: Any = decoded
    for key in ("error", "message", "detail"):
        if isinstance(text, dict) and text.get(key):
            text = text[key]
    return " ".join(text.split())[:200] if isinstance(text, str) else ""


def _says_something(delta: _Delta) -> bool:
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)
