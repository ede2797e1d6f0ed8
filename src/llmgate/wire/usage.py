"""The token counts in an answer: OpenAI's `usage`, Anthropic's, and what TGI and SGLang say in their own ways."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from llmgate.core.types import Usage

KEPT_BYTES = 16 * 1024
"""How much of an answer's end is kept to find its usage in. Engines put it within the last KiB or two."""

KEYS = (b'"usage"', b'"details"', b'"meta_info"', b'"timings"')
"""What usage is called: by nearly everybody, by TGI's /generate, by SGLang's, by llama.cpp in every stream."""


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


_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    # OpenAI's chat, completions, embeddings; SGLang's own with `cached_tokens` beside them
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    cached_tokens: _Count | None = None
    # OpenAI's responses; Anthropic's, where `input_tokens` leaves out what was read from or written to a cache
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    # TGI
    input_length: _Count | None = None
    generated_tokens: _Count | None = None
    # llama.cpp's timings: prompt tokens from the cache, computed ones, output
    cache_n: _Count | None = None
    prompt_n: _Count | None = None
    predicted_n: _Count | None = None
    # rerank and score, where nothing else is said
    total_tokens: _Count | None = None


class _BareUsage(msgspec.Struct, gc=False):
    """Of a usage of which something else is odd."""

    prompt_tokens: _Count
    completion_tokens: Any = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    details: _Usage | None = None
    meta_info: _Usage | None = None
    timings: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)
_usages = msgspec.json.Decoder(_Usage)
_bare_usages = msgspec.json.Decoder(_BareUsage)
_MOST_CANDIDATES = 16  # an answer's text may speak of usage too, but not that often at its very end
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def whole_usage(answer: bytes) -> Usage | None:
    """The usage of a complete JSON answer, or None if it has none that makes sense."""
    try:
        found = _answers.decode(answer)
    except _UNDECODABLE:
        return last_usage(answer[-2 * KEPT_BYTES :])
    usage = found.usage or found.details or found.meta_info or found.timings
    return None if usage is None else _understood(usage)


def last_usage(tail: bytes) -> Usage | None:
    """The last usage object in the end of an answer, wherever that begins."""
    for key in KEYS:
        at = len(tail)
        for _ in range(_MOST_CANDIDATES):
            at = tail.rfind(key, 0, at)
            if at < 0:
                break
            if (usage := _usage_after(tail, at + len(key))) is not None:
                return usage
    return None


def first_usage(head: bytes) -> Usage | None:
    """That of Anthropic's `message_start`, in the beginning of a streamed answer."""
    at = head.find(KEYS[0])
    return None if at < 0 else _usage_after(head, at + len(KEYS[0]))


def _usage_after(text: bytes, position: int) -> Usage | None:
    for candidate in _objects_after(text, position):
        if (usage := _decoded(candidate)) is not None:
            return usage
    return None


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


def _understood(usage: _Usage) -> Usage | None:
    prompt, details = usage.prompt_tokens, usage.prompt_tokens_details
    if prompt is not None:
        cached = usage.cached_tokens if details is None else details.cached_tokens
        return Usage(prompt, usage.completion_tokens or 0, cached)
    if usage.input_tokens is not None or usage.output_tokens is not None:
        details, cached = usage.input_tokens_details, usage.cache_read_input_tokens
        prompt = (usage.input_tokens or 0) + (cached or 0) + (usage.cache_creation_input_tokens or 0)
        return Usage(prompt, usage.output_tokens or 0, cached if details is None else details.cached_tokens)
    if usage.generated_tokens is not None:
        return Usage(usage.input_length or 0, usage.generated_tokens)
    if usage.predicted_n is not None:
        return Usage((usage.cache_n or 0) + (usage.prompt_n or 0), usage.predicted_n, usage.cache_n)
    return None if usage.total_tokens is None else Usage(usage.total_tokens)
