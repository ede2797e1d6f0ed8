"""OpenAI's JSON as far as routing needs it. The body itself is forwarded as the bytes that came."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmgate.core.errors import BadRequest, LlmgateError
from llmgate.core.types import Kind

SHORT_BODY = 2048  # bytes that are searched sooner than thought about
ABSENT = msgspec.Raw(b"")
LONGEST_NUMBER = 18  # digits: any such number fits 64 bits, and no engine allows more tokens
BATCH = re.compile(rb'\[[ \t\r\n]*+(["\[])')
"""The beginning of a list of strings or of lists."""


class Body(msgspec.Struct):
    """The fields that routing reads, as JSON text where that may be anything; everything else is skipped unparsed."""

    model: str | None = None
    stream_field: msgspec.Raw = msgspec.field(default=ABSENT, name="stream")
    max_tokens: msgspec.Raw = ABSENT
    max_completion_tokens: msgspec.Raw = ABSENT
    n: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    prompt_field: msgspec.Raw = msgspec.field(default=ABSENT, name="prompt")
    input: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT
    chat_template_kwargs: msgspec.Raw = ABSENT

    @property
    def stream(self) -> bool:
        return bytes(self.stream_field) == b"true"

    @property
    def output_limit(self) -> int | None:
        """Tokens that the client allows for all answers together; None if it sets no (sensible) limit."""
        allowed = bytes(self.max_completion_tokens)
        limit = _whole(bytes(self.max_tokens) if allowed in (b"", b"null") else allowed)
        if limit is None:
            return None
        choices = _whole(bytes(self.n)) if self.n else 1
        prompts = _batch_size(bytes(self.prompt_field)) if self.prompt_field else 1
        return limit * (choices if choices and choices <= 1024 else 1) * prompts

    def prompt(self, kind: Kind) -> bytes:
        """The raw JSON that makes up the prompt, tools first, where an engine's chat template puts them."""
        if kind is Kind.CHAT:
            return bytes(self.tools) + bytes(self.messages) if self.tools else bytes(self.messages)
        return bytes(self.prompt_field if kind is Kind.COMPLETION else self.input)


def _whole(number: bytes) -> int | None:
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


class _RawModel(msgspec.Struct):
    model: msgspec.Raw


_decoder = msgspec.json.Decoder(Body)
_raw_model_decoder = msgspec.json.Decoder(_RawModel)


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
    start, end = _model_value(body)
    return b"%b%b%b" % (body[:start], msgspec.json.encode(model), body[end:])


def _model_value(body: bytes) -> tuple[int, int]:
    """Where the value of the top-level `model` stands.

    The decoder does not tell, but a Raw is a view of what was decoded: write to a part of that, and the view shows
    whether the value is there. Halving the part each time costs less than decoding, which is all there is to it.
    """
    scratch = bytearray(body)
    view = memoryview(_raw_model_decoder.decode(scratch).model)
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


def _place(error: Exception) -> str:
    """msgspec's messages are fixed texts with an offset; they never quote the body."""
    return str(error).removeprefix("JSON is malformed: ")


# What the gateway itself answers -------------------------------------------------------------------------------------


def error_body(error: LlmgateError) -> bytes:
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_event(error: LlmgateError, *, at_line_start: bool) -> bytes:
    """An SSE event that ends a broken stream; first closes the event that the break may have cut."""
    return b"%bdata: %b\n\n" % (b"" if at_line_start else b"\n\n", error_body(error))


def model_list(models: list[str], created: int) -> bytes:
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": created, "owned_by": "llmgate"} for name in models],
        }
    )
