"""Reading an answer while it passes: how many events, and the usage at its end. Sans-IO; never changes a byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from llmgate.core.types import Usage

KEPT_BYTES = 16 * 1024
"""How much of an answer's end is kept to find its usage in. Engines put it within the last KiB or two."""


class UsageTail:
    """Keeps references to the last chunks, KEPT_BYTES at least, and finds the last usage object in them."""

    __slots__ = ("_chunks", "_size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def keep(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > 2 * KEPT_BYTES:
            while self._size - len(self._chunks[0]) >= KEPT_BYTES:
                self._size -= len(self._chunks.popleft())

    def usage(self) -> Usage | None:
        return last_usage(b"".join(self._chunks)[-2 * KEPT_BYTES :])


class SseMeter:
    """Counts the events of a server-sent event stream, wherever its chunks are cut, and finds the final usage.

    Nothing is parsed per chunk: an event is a line that starts with `data:`.
    """

    __slots__ = ("_tail", "_usage", "events")

    def __init__(self) -> None:
        self.events = 0
        self._tail = b"\n"
        self._usage = UsageTail()

    def feed(self, chunk: bytes) -> int:
        """Take note of the next bytes; returns how many events began in them."""
        self._usage.keep(chunk)
        text = chunk
        if b"\r" in chunk:  # CRLF and CR end lines too
            text = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # "\ndata:" has 6 bytes: one that is cut by the chunks' border lies within 5 bytes on either side
        events = text.count(b"\ndata:") + (self._tail + text[:5]).count(b"\ndata:")
        self._tail = text[-5:] if len(text) >= 5 else (self._tail + text)[-5:]
        self.events += events
        return events

    @property
    def at_line_start(self) -> bool:
        return self._tail.endswith(b"\n")

    def usage(self) -> Usage | None:
        return self._usage.usage()

    def counted_tokens(self) -> int:
        """Output tokens if the engine reported none: engines send about an event a token, and [DONE]."""
        return max(self.events - 1, 0)


# Usage ---------------------------------------------------------------------------------------------------------------


_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _BareUsage(msgspec.Struct):
    """Of a usage of which something else is odd."""

    prompt_tokens: _Count
    completion_tokens: Any = None


_answers = msgspec.json.Decoder(_Answer)
_usages = msgspec.json.Decoder(_Usage)
_bare_usages = msgspec.json.Decoder(_BareUsage)
_MOST_CANDIDATES = 16  # an answer's text may speak of usage too, but not that often at its very end
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def whole_usage(answer: bytes) -> Usage | None:
    """The usage of a complete JSON answer, or None if it has none that makes sense."""
    try:
        found = _answers.decode(answer).usage
    except _UNDECODABLE:
        return last_usage(answer[-2 * KEPT_BYTES :])
    return None if found is None else _understood(found)


def last_usage(tail: bytes) -> Usage | None:
    """The last usage object in the end of an answer, wherever that begins."""
    at = len(tail)
    for _ in range(_MOST_CANDIDATES):
        at = tail.rfind(b'"usage"', 0, at)
        if at < 0:
            return None
        for candidate in _objects_after(tail, at + len(b'"usage"')):
            if (found := _decoded(candidate)) is not None:
                return found
    return None


def _objects_after(text: bytes, position: int) -> Iterator[bytes]:
    """What may be the object that is the value of the key before `position`: up to the first closing brace, the
    second, and so on. A usage holds at most a few objects of details."""
    start = end = text.find(b"{", position)
    if start < 0 or text[position:start].strip() != b":":
        return
    for _ in range(8):
        end = text.find(b"}", end) + 1
        if not end:
            return
        yield text[start:end]


def _decoded(candidate: bytes) -> Usage | None:
    try:
        return _understood(_usages.decode(candidate))
    except _UNDECODABLE:
        pass
    try:
        found = _bare_usages.decode(candidate)
    except _UNDECODABLE:
        return None
    completion = found.completion_tokens
    sensible = isinstance(completion, int) and not isinstance(completion, bool) and 0 <= completion < 2**53
    return Usage(found.prompt_tokens, completion if sensible else 0)


def _understood(usage: _Usage) -> Usage:
    details = usage.prompt_tokens_details
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, None if details is None else details.cached_tokens)
