"""The kinds of request in one table: where their prompt stands, what limits their output, how errors are told.

A new kind is one entry of `KINDS` and its paths in `ROUTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from llmgate.core.errors import LlmgateError
from llmgate.core.types import Kind
from llmgate.wire import anthropic, openai
from llmgate.wire.assemble import Assembly, ChatAssembly, CompletionAssembly, MessageAssembly, ResponseAssembly
from llmgate.wire.chats import chat, completion, embedding, generation, messages, responses
from llmgate.wire.openai import Body, whole_number


class Dialect(NamedTuple):
    """How the gateway's own errors look."""

    body: Callable[[LlmgateError], bytes]
    event: Callable[[LlmgateError], bytes]  # in a stream that breaks

    def closing_event(self, error: LlmgateError, *, between_events: bool) -> bytes:
        """What ends a broken stream; first closes the event that the break may have cut."""
        return self.event(error) if between_events else b"\n\n" + self.event(error)


OPENAI = Dialect(openai.error_body, openai.error_event)
RESPONSES = Dialect(openai.error_body, openai.response_error_event)
ANTHROPIC = Dialect(anthropic.error_body, anthropic.error_event)


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What tells one kind of request from the others. Fields are named as they are in `Body`."""

    kind: Kind
    prompt: tuple[str, ...] = ()
    """The fields that make up the prompt, in the order in which engines put them together. None for requests that do
    not run the model: they are booked as one token."""
    limits: tuple[str, ...] = ()
    """What bounds the tokens of an answer; the first that is given counts. `a.b` is the field b within a."""
    dialect: Dialect = OPENAI
    framing: int = 1
    """Events of a streamed answer that carry no token, such as `[DONE]`."""
    usage_at_start: bool = False
    """The first event of a stream tells the prompt's tokens, and the last only those of the output."""
    takes_stream_options: bool = False
    """Streams tell their usage only if `stream_options.include_usage` asks for it."""
    assembly: Callable[[], Assembly] | None = None
    """Puts a streamed answer together to what the engine would have said without streaming."""
    countable: Callable[[dict[str, Any]], tuple[Kind, dict[str, Any]]] | None = None
    """Makes of the decoded fields of the prompt what a tokenizer can count: a chat, a completion's prompt, an input."""
    form: bool = False
    """May come as a multipart form."""
    bytes_per_token: int = 0
    """What an upload is taken to cost, where it is the prompt."""
    model_required: bool = False
    """Without a model it is no known request."""

    _parts: Callable[[Body], tuple[msgspec.Raw, ...]] = field(init=False, repr=False)
    _limits: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # worked out once: these are read for each request
        object.__setattr__(
            self, "_parts", attrgetter(*self.prompt, "absent", "absent")
        )  # with one name it gives no tuple
        object.__setattr__(self, "_limits", tuple(name.partition(".")[::2] for name in self.limits))

    def prompt_of(self, body: Body) -> bytes:
        """The raw JSON that makes up the prompt."""
        return b"".join(self._parts(body))

    def output_limit(self, body: Body) -> int | None:
        """Tokens that the client allows for all answers together; None if it sets no (sensible) limit."""
        for outer, inner in self._limits:
            part = getattr(body, outer)
            if part is not body.absent:
                raw = _inner_field(part) if inner else bytes(part)
                if raw not in (b"", b"null"):
                    return body.output_limit(whole_number(raw))
        return None


class _Inner(msgspec.Struct):
    max_new_tokens: msgspec.Raw = msgspec.Raw(b"")


_inner_decoder = msgspec.json.Decoder(_Inner)


def _inner_field(raw: msgspec.Raw) -> bytes:
    """`max_new_tokens` of TGI's `parameters` and SGLang's `sampling_params`; empty if there is none."""
    try:
        return bytes(_inner_decoder.decode(raw).max_new_tokens)
    except msgspec.DecodeError:
        return b""


_SPECS = (
    KindSpec(
        Kind.CHAT,
        prompt=("tools", "messages"),
        limits=("max_completion_tokens", "max_tokens"),
        takes_stream_options=True,
        assembly=ChatAssembly,
        countable=chat,
    ),
    KindSpec(
        Kind.COMPLETION,
        prompt=("prompt_field",),
        limits=("max_completion_tokens", "max_tokens"),
        takes_stream_options=True,
        assembly=CompletionAssembly,
        countable=completion,
    ),
    KindSpec(Kind.EMBEDDING, prompt=("input",), countable=embedding),
    KindSpec(
        Kind.RESPONSES,
        prompt=("tools", "instructions", "input"),
        limits=("max_output_tokens",),
        dialect=RESPONSES,
        framing=8,  # created, in_progress, item and part added, text, part and item done, completed
        assembly=ResponseAssembly,
        countable=responses,
    ),
    KindSpec(
        Kind.MESSAGES,
        prompt=("tools", "system", "messages"),
        limits=("max_tokens",),
        dialect=ANTHROPIC,
        framing=5,  # message_start, content_block_start and _stop, message_delta, message_stop
        usage_at_start=True,
        assembly=MessageAssembly,
        countable=messages,
    ),
    KindSpec(Kind.COUNT_TOKENS, dialect=ANTHROPIC),
    KindSpec(Kind.RERANK, prompt=("query", "documents")),
    KindSpec(Kind.SCORE, prompt=("query", "queries", "text_1", "text_2", "documents")),
    KindSpec(Kind.TOKENIZE),
    KindSpec(Kind.DETOKENIZE),
    KindSpec(
        Kind.GENERATE,
        prompt=("inputs", "text", "input_ids"),
        limits=("parameters.max_new_tokens", "sampling_params.max_new_tokens"),
        framing=0,
        countable=generation,
    ),
    # Whisper hears 50 tokens a second, and uploads are compressed: 128 kbit/s are 320 bytes a token
    KindSpec(Kind.AUDIO, form=True, bytes_per_token=320),
    KindSpec(Kind.OTHER, form=True, model_required=True),
)

KINDS: Mapping[Kind, KindSpec] = {spec.kind: spec for spec in _SPECS}

ROUTES: Mapping[str, Kind] = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETION,
    "/v1/embeddings": Kind.EMBEDDING,
    "/v1/responses": Kind.RESPONSES,
    "/v1/messages": Kind.MESSAGES,
    "/v1/messages/count_tokens": Kind.COUNT_TOKENS,
    "/v1/rerank": Kind.RERANK,
    "/v2/rerank": Kind.RERANK,
    "/rerank": Kind.RERANK,
    "/v1/score": Kind.SCORE,
    "/score": Kind.SCORE,
    "/tokenize": Kind.TOKENIZE,
    "/detokenize": Kind.DETOKENIZE,
    "/generate": Kind.GENERATE,
    "/generate_stream": Kind.GENERATE,
    "/v1/audio/transcriptions": Kind.AUDIO,
    "/v1/audio/translations": Kind.AUDIO,
}
"""Paths of the data port that take POST."""


def dialect_of(target: bytes) -> Dialect:
    """How errors look to whoever asked for this path (with its query)."""
    kind = ROUTES.get(target.partition(b"?")[0].decode("latin-1"))
    return OPENAI if kind is None else KINDS[kind].dialect
