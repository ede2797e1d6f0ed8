"""Changes to a stream of server-sent events while it passes, a whole event at a time. Sans-IO.

What an edit does not mean to change passes byte for byte, wherever the chunks are cut. An event that is not whole yet
is held back until it is; a client could not have used it sooner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

MOST_HELD = 256 * 1024
"""Bytes. A longer event passes unedited: the events that edits look for are short."""


class Edit(NamedTuple):
    """A change. `change` gets one or more whole events, and gives what is to stand in their place."""

    marker: bytes  # what holds none of this is not changed
    change: Callable[[bytes], bytes]


_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")  # an empty line: of LF, of CRLF, of CR
_END = re.compile(rb"\n\n|\n\r\n|\r\r")


class EventSplitter:
    """Cuts a stream into whole events, each with the empty line that ends it. Takes time in proportion to the stream,
    however long an event is and however small its pieces."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def whole(self, chunk: bytes) -> bytes:
        """All the events that are whole with this chunk, in one piece."""
        held = self._held
        before = bytes(held[-2:])  # what is held has no end in it, but the last two bytes may begin one
        news = before + chunk
        end = max((at + len(mark) for mark in _ENDS if (at := news.rfind(mark)) >= 0), default=0)
        if not end:
            held += chunk
            return b""
        cut = end - len(before)
        events = chunk[:cut]
        if held:
            events = bytes(held) + events
            held.clear()
        held += chunk[cut:]
        return events

    def split(self, chunk: bytes) -> list[bytes]:
        return list(events_of(self.whole(chunk)))

    def rest(self) -> bytes:
        """What is held back of an event that is not whole."""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    @property
    def held(self) -> int:
        return len(self._held)


class EventEditor:
    """Applies edits to the events of a stream."""

    __slots__ = ("_edits", "_inside", "_splitter", "_whole")

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits
        self._splitter = EventSplitter()
        self._inside = False  # an event too long to be held back, which is passing
        self._whole = True  # neither is anything held back

    def feed(self, chunk: bytes) -> bytes:
        """What may go on to the client with this chunk; often nothing, or more than the chunk."""
        if self._whole and chunk.endswith(b"\n\n"):  # an event a chunk, as engines send them
            for marker, change in self._edits:
                if marker in chunk:
                    chunk = change(chunk)
            return chunk
        events, passed = self._splitter.whole(chunk), b""
        if self._inside and events:
            end = _END.search(events)
            at = end.end() if end else len(events)
            events, passed, self._inside = events[at:], events[:at], False
        for marker, change in self._edits:
            if marker in events:
                events = change(events)
        if self._splitter.held > MOST_HELD:
            events += self._splitter.rest()
            self._inside = True
        self._whole = not (self._splitter.held or self._inside)
        return passed + events if passed else events

    @property
    def between_events(self) -> bool:
        """Whether the client has had nothing but whole events so far."""
        return not self._inside

    def rest(self) -> bytes:
        """What is left at the end of the stream: an event without its end, which no client looks at."""
        return self._splitter.rest()


def events_of(stream: bytes) -> Iterator[bytes]:
    """The events of a stream, each with its end; the last may lack it."""
    start = 0
    for end in _END.finditer(stream):
        yield stream[start : end.end()]
        start = end.end()
    if start < len(stream):
        yield stream[start:]


def data_of(event: bytes) -> bytes:
    """What an event's `data:` lines say together."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


class _UsageChunk(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: dict[str, msgspec.Raw]


_usage_chunks = msgspec.json.Decoder(_UsageChunk)


def _without_usage_chunk(events: bytes) -> bytes:
    return b"".join(
        _comments(event) if b'"prompt_tokens"' in event and _is_usage_chunk(data_of(event)) else event
        for event in events_of(events)
    )


WITHOUT_USAGE_CHUNK = Edit(b'"prompt_tokens"', _without_usage_chunk)
"""Takes out the chunk that only `stream_options.include_usage` asks for: no choices, and the usage. Comments that stand
within that event stay."""


def _is_usage_chunk(data: bytes) -> bool:
    try:
        return not _usage_chunks.decode(data).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _comments(event: bytes) -> bytes:
    return b"".join(line for line in event.splitlines(keepends=True) if line.startswith(b":"))


def renaming(served: str, name: str) -> Edit:
    """Puts `name` where a `model` is said to be `served`. Within a JSON string quotes are escaped, so that what an
    answer's text says of models stays."""
    pattern = re.compile(rb'(?<!\\)("model"\s*:\s*)' + re.escape(msgspec.json.encode(served)))
    new = msgspec.json.encode(name)
    return Edit(b'"model"', lambda answer: pattern.sub(lambda found: found[1] + new, answer))
