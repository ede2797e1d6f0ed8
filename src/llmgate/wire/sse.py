"""Reading an answer while it passes: how many events, and the usage at its end. Sans-IO; never changes a byte."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import msgspec

from llmgate.core.types import Usage

USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
BRACE = re.compile(rb"[{}]")
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
        return find_usage(b"".join(self._chunks)[-2 * KEPT_BYTES :])


def find_usage(tail: bytes) -> Usage | None:
    """The last usage object in the end of an answer."""
    at = tail.rfind(b'"usage"')
    while at >= 0:
        match = USAGE.match(tail, at)
        usage = match and _usage(tail, match.end())
        if usage:
            return usage
        at = tail.rfind(b'"usage"', 0, at)
    return None


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


class _UsageObject(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: Any = None


_decoder = msgspec.json.Decoder(_UsageObject)


def _usage(text: bytes, start: int) -> Usage | None:
    """From the JSON object that begins at `start`; None if it makes no sense."""
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += 1 if brace[0] == b"{" else -1
        if not depth:
            return _understood(text[start : brace.end()])
    return None


def _understood(text: bytes) -> Usage | None:
    try:
        data = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    prompt, completion = _count(data.prompt_tokens), _count(data.completion_tokens)
    if prompt is None:
        return None
    details = data.prompt_tokens_details
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(prompt, completion or 0, cached)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
