"""OpenAI's JSON as far as routing needs it. The body itself is forwarded as the bytes that came."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar

import msgspec

from llmgate.core.errors import BadRequest, LlmgateError

SHORT_BODY = 2048  # bytes that are searched sooner than thought about
ABSENT = msgspec.Raw(b"")
LONGEST_NUMBER = 18  # digits: any such number fits 64 bits, and no engine allows more tokens
BATCH = re.compile(rb'\[[ \t\r\n]*+(["\[])')
"""The beginning of a list of strings or of lists."""


class Body(msgspec.Struct, gc=False):
    """The fields that routing reads, as JSON text where that may be anything; everything else is skipped unparsed.

    Those of every kind of request: which of them count for a kind says wire/kinds.py.
    """

    model: str | None = None
    stream_field: msgspec.Raw = msgspec.field(default=ABSENT, name="stream")
    stream_options: msgspec.Raw = ABSENT
    # how much output is allowed
    max_tokens: msgspec.Raw = ABSENT
    max_completion_tokens: msgspec.Raw = ABSENT
    max_output_tokens: msgspec.Raw = ABSENT
    parameters: msgspec.Raw = ABSENT
    sampling_params: msgspec.Raw = ABSENT
    n: msgspec.Raw = ABSENT
    # what makes up a prompt
    messages: msgspec.Raw = ABSENT
    prompt_field: msgspec.Raw = msgspec.field(default=ABSENT, name="prompt")
    input: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT
    chat_template_kwargs: msgspec.Raw = ABSENT
    system: msgspec.Raw = ABSENT
    instructions: msgspec.Raw = ABSENT
    inputs: msgspec.Raw = ABSENT
    text: msgspec.Raw = ABSENT
    input_ids: msgspec.Raw = ABSENT
    query: msgspec.Raw = ABSENT
    queries: msgspec.Raw = ABSENT
    documents: msgspec.Raw = ABSENT
    text_1: msgspec.Raw = ABSENT
    text_2: msgspec.Raw = ABSENT
    # what keeps prefix caches apart
    cache_salt: msgspec.Raw = ABSENT
    # what ties requests of a conversation together
    prompt_cache_key: msgspec.Raw = ABSENT
    session_id: msgspec.Raw = ABSENT
    conversation_id: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    user: msgspec.Raw = ABSENT

    absent: ClassVar[msgspec.Raw] = ABSENT

    @property
    def stream(self) -> bool:
        return self.stream_field is not ABSENT and bytes(self.stream_field) == b"true"

    def output_limit(self, allowed: int | None) -> int | None:
        """Tokens for all answers together, if `allowed` are for one of them."""
        if allowed is None:
            return None
        choices = whole_number(bytes(self.n)) if self.n else 1
        prompts = _batch_size(bytes(self.prompt_field)) if self.prompt_field else 1
        return allowed * (choices if choices and choices <= 1024 else 1) * prompts

    def renamed(self, body: bytes, model: str) -> bytes:
        """The same body with another value for its `model`, or with one if it has none."""
        try:
            return replace_model(body, model)
        except msgspec.ValidationError:  # it is not there
            return insert_field(body, "model", msgspec.json.encode(model))


def whole_number(number: bytes) -> int | None:
    """A whole number from its JSON text; None for anything else, also if it is negative or absurd."""
    return int(number) if number.isdigit() and len(number) <= LONGEST_NUMBER else None


def _batch_size(prompt: bytes) -> int:
    """How many prompts a completion's `prompt` holds, each of which gets answers of its own. Counted, not parsed."""
    if not (batch := BATCH.match(prompt)):
        return 1
    if batch[1] == b"[":  # of token ids
        return prompt.count(b"[") - 1
    return prompt.replace(rb"\\", b"").replace(rb"\"", b"").count(b'"') // 2


class _Model:
    """Stands for the value of a top-level `model`."""


class _EachModel(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)


_decoder = msgspec.json.Decoder(Body)


def parse_body(body: bytes) -> Body:
    """Decode the routing fields. Raises BadRequest if it is no JSON object, or says `model` twice.

    A model given twice would be routed by one of the two and answered by whichever the engine's parser picks.
    """
    try:
        fields = _decoder.decode(body)
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("`model` must be a string.", param="model") from None
        raise BadRequest("The request body must be a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The request body is not valid JSON: {_place(error)}.") from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.") from None
    rest = _less_its_messages(body, bytes(fields.messages)) if len(body) > SHORT_BODY else body
    first = rest.find(b'"model"')
    if rest.find(b'"model"', first + 7) >= 0 or b"\\u006" in rest:
        _refuse_second_model(body)
    return fields


def _less_its_messages(body: bytes, messages: bytes) -> bytes:
    """What is left of a long body without its `messages`: searching those would cost more than all else that is done.

    The whole body if they are not found at once; they are compared, so that nothing else is ever left out.
    """
    start = body.find(b"[", body.find(b'"messages"') + 10)
    if not messages or not body.startswith(messages, start):
        return body
    return body[:start] + body[start + len(messages) :]


def _refuse_second_model(body: bytes) -> None:
    """Raises BadRequest. The decoder calls back for each top-level `model`, however it is spelled, and for no other."""
    times = 0

    def count(_type: type[_Model], _value: Any) -> _Model:
        nonlocal times
        times += 1
        if times > 1:
            raise BadRequest("`model` is given twice.", param="model", code="duplicate_key")
        return _Model()

    msgspec.json.decode(body, type=_EachModel, dec_hook=count)


def replace_model(body: bytes, model: str) -> bytes:
    """The same bytes with another value for the top-level `model`, which must be there, once."""
    return replace_field(body, "model", msgspec.json.encode(model))


def replace_field(body: bytes, name: str, value: bytes) -> bytes:
    """The same bytes with another value for the top-level field `name`, which must be there. `value` is JSON."""
    start, end = _value_of(body, name)
    return b"%b%b%b" % (body[:start], value, body[end:])


def insert_field(body: bytes, name: str, value: bytes) -> bytes:
    """The same bytes with one more top-level field at their beginning, which must not be there yet."""
    start = body.index(b"{") + 1
    empty = body[start : start + 64].lstrip(b" \t\r\n")[:1] == b"}"
    return b'%b"%b":%b%b%b' % (body[:start], name.encode(), value, b"" if empty else b",", body[start:])


def _value_of(body: bytes, name: str) -> tuple[int, int]:
    """Where the value of a top-level field stands.

    The decoder does not tell, but a Raw is a view of what was decoded: write to a part of that, and the view shows
    whether the value is there. Halving the part each time costs less than decoding, which is all there is to it.
    """
    scratch = bytearray(body)
    view = memoryview(_raw_field_decoder(name).decode(scratch).value)
    low, high = 0, len(scratch)
    while high - low > 1:
        middle = (low + high) // 2
        mark = view[0] ^ 1  # another byte than is there
        scratch[low:middle] = bytes((mark,)) * (middle - low)
        if view[0] == mark:
            high = middle
        else:
            low = middle
    return low, low + len(view)


@cache
def _raw_field_decoder(name: str) -> msgspec.json.Decoder[Any]:
    """`name` is one of the gateway's own few."""
    fields = [("value", msgspec.Raw, msgspec.field(name=name))]
    return msgspec.json.Decoder(msgspec.defstruct("_RawField", fields))


def _place(error: Exception) -> str:
    """msgspec's messages are fixed texts with an offset; they never quote the body."""
    return str(error).removeprefix("JSON is malformed: ")


# What the gateway itself answers -------------------------------------------------------------------------------------


def error_body(error: LlmgateError) -> bytes:
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_event(error: LlmgateError) -> bytes:
    """An SSE event that ends a broken stream of chunks."""
    return b"data: %b\n\n" % error_body(error)


def response_error_event(error: LlmgateError) -> bytes:
    """The same for a stream of the responses API, whose events have names and types. `error` is for clients that know
    no other."""
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({**said, "type": "error", "error": said})


def model_card(name: str, created: int, **more: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "llmgate", **more}


def model_list(cards: Iterable[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": list(cards)})
