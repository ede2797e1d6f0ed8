"""Answers byte by byte as vLLM 0.32 writes them (recorded from its build for the CPU; see docs/sim-engine.md).

All events of a stream but its last have the same bytes around one token's text: they are made once a stream, and any
number of tokens costs one join.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

FINGERPRINT = "vllm-0.32.0-11a9a7e0"
"""Of the form `vllm-VERSION-HASH`, by which vLLM can be told; the hash is made up."""

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Named:
    """What every event of an answer repeats."""

    id: str
    model: str
    created: int  # Unix time, s

    def start(self, kind: str) -> bytes:
        """Up to and with `"choices":`."""
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return msgspec.json.encode(fields)[:-1] + b',"choices":'


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion, **more}


class ChatEvents:
    """The events of a streamed chat."""

    def __init__(self, named: Named) -> None:
        start = b"data: " + named.start("chat.completion.chunk")
        self._start = start
        self.head = start + b'[{"index":0,"delta":{"content":"'
        self.tail = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]'
        self.after_first = b',"prompt_token_ids":null,"prompt_text":null}\n\n'

    def first(self) -> bytes:
        return (
            self._start
            + b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        )

    def finish(self, piece: bytes, reason: str) -> bytes:
        return b'%b%b"},"logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":null}]' % (
            self.head,
            piece,
            reason.encode(),
        )

    def usage(self, counted: Mapping[str, Any]) -> bytes:
        return _usage_event(self._start, counted)


class TextEvents:
    """The events of a streamed completion."""

    def __init__(self, named: Named) -> None:
        self._start = b"data: " + named.start("text_completion")
        self.head = self._start + b'[{"index":0,"text":"'
        self.tail = (
            b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]'
        )

    def finish(self, piece: bytes, reason: str) -> bytes:
        return (
            b'%b%b","logprobs":null,"finish_reason":"%b","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]'
            % (self.head, piece, reason.encode())
        )

    def usage(self, counted: Mapping[str, Any]) -> bytes:
        return _usage_event(self._start, counted)


def _usage_event(start: bytes, counted: Mapping[str, Any]) -> bytes:
    return b'%b[],"usage":%b,"system_fingerprint":"%b"}\n\n' % (
        start,
        msgspec.json.encode(counted),
        FINGERPRINT.encode(),
    )


class Stream:
    """One streamed answer. What each method gives is to be written as it is."""

    def __init__(self, named: Named, prompt_tokens: int, *, chat: bool, include_usage: bool, continuous: bool) -> None:
        self._events = ChatEvents(named) if chat else TextEvents(named)
        self._prompt = prompt_tokens
        self._include = include_usage
        self._continuous = continuous
        self._details = b',"completion_tokens_details":null' if chat else b""
        self._between = self._events.tail + b"}\n\n" + self._events.head

    def first(self) -> bytes:
        """What goes before the first token."""
        if not isinstance(self._events, ChatEvents):
            return b""
        return self._events.first() + self._running(0) + self._events.after_first

    def tokens(self, pieces: Sequence[bytes], sent: int) -> bytes:
        """Events of tokens after which others come; `sent` have been before."""
        events = self._events
        if not pieces:
            return b""
        if not self._continuous:
            return events.head + self._between.join(pieces) + events.tail + b"}\n\n"
        counted = enumerate(pieces, sent + 1)
        return b"".join(events.head + piece + events.tail + self._running(n) + b"}\n\n" for n, piece in counted)

    def finish(self, piece: bytes, completion_tokens: int, reason: str, counted: Mapping[str, Any]) -> bytes:
        """The last token and all that follows it."""
        fingerprint = b"" if self._include or not isinstance(self._events, ChatEvents) else _FINGERPRINT_FIELD
        last = self._events.finish(piece, reason) + fingerprint + self._running(completion_tokens) + b"}\n\n"
        return last + (self._events.usage(counted) if self._include else b"") + DONE

    def _running(self, completion: int) -> bytes:
        if not self._continuous:
            return b""
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
            self._prompt,
            self._prompt + completion,
            completion,
            self._details,
        )


_FINGERPRINT_FIELD = b',"system_fingerprint":"' + FINGERPRINT.encode() + b'"'

_NO_CHAT_FIELDS = b'"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null'


def whole(named: Named, text: bytes, reason: str, counted: Mapping[str, Any], *, chat: bool) -> bytes:
    """An answer that is not streamed; `text` as it stands within a JSON string."""
    if chat:
        choice = (
            b'{"index":0,"message":{"role":"assistant","content":"%b",%b},"logprobs":null,"finish_reason":"%b",'
            b'"stop_reason":null,"token_ids":null,"routed_experts":null}' % (text, _NO_CHAT_FIELDS, reason.encode())
        )
        rest = b',"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null'
    else:
        choice = (
            b'{"index":0,"text":"%b","logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":null,'
            b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}' % (text, reason.encode())
        )
        rest = b""
    return b'%b[%b],"service_tier":null,"system_fingerprint":"%b","usage":%b%b%b}' % (
        named.start("chat.completion" if chat else "text_completion"),
        choice,
        FINGERPRINT.encode(),
        msgspec.json.encode(counted),
        rest,
        b',"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null',
    )
