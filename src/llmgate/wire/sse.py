"""Reading an answer while it passes: how many events, and the usage in it. Sans-IO; never changes a byte."""

from __future__ import annotations

from llmgate.core.types import Usage
from llmgate.wire.usage import UsageTail, first_usage

HEAD_BYTES = 4096
"""How much of a stream's beginning is kept where usage stands there too: a `message_start` has some 300 bytes."""


class SseMeter:
    """Counts the events of a server-sent event stream, wherever its chunks are cut, and finds the final usage.

    Nothing is parsed per chunk: an event is a line that starts with `data:`. `usage_at_start`: what the prompt took is
    told by the first event, and not again by the last.
    """

    __slots__ = ("_carriage_returns", "_head", "_tail", "_usage", "events")

    def __init__(self, usage_at_start: bool = False) -> None:
        self.events = 0
        self._tail = b"\n\n"
        self._carriage_returns = False
        self._usage = UsageTail()
        self._head: bytes | None = b"" if usage_at_start else None

    def feed(self, chunk: bytes) -> int:
        """Take note of the next bytes; returns how many events began in them."""
        self._usage.keep(chunk)
        if self._head is not None and len(self._head) < HEAD_BYTES:
            self._head += chunk[:HEAD_BYTES]
        text = chunk
        if b"\r" in chunk:  # CRLF and CR end lines too
            self._carriage_returns = True
            text = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # "\ndata:" has 6 bytes: one that is cut by the chunks' border lies within 5 bytes on either side
        events = text.count(b"\ndata:") + (self._tail + text[:5]).count(b"\ndata:")
        self._tail = text[-5:] if len(text) >= 5 else (self._tail + text)[-5:]
        self.events += events
        return events

    @property
    def between_events(self) -> bool:
        """Whether the client has had nothing but whole events so far. False where that is not certain: a CRLF that a
        chunk's border cuts looks like two ends of lines."""
        return not self._carriage_returns and self._tail.endswith(b"\n\n")

    def usage(self) -> Usage | None:
        usage = self._usage.usage()
        if self._head and usage is not None and not usage.prompt_tokens:
            start = first_usage(self._head)
            if start is not None:
                return Usage(start.prompt_tokens, usage.completion_tokens, start.cached_tokens)
        return usage

    def counted_tokens(self, framing: int) -> int:
        """Output tokens if the engine reported none: engines send about an event a token, and `framing` without one."""
        return max(self.events - framing, 0)
