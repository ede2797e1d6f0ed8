"""OpenAI's JSON as far as routing needs it. The body itself is forwarded as the bytes that came."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from llmgate.core.errors import BadRequest, LlmgateError
from llmgate.core.types import Kind

SHORT_BODY = 2048  # bytes that are searched sooner than thought about
ABSENT = msgspec.Raw(b"")
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
"""A string or a bracket. Possessive: a match keeps no way back, so a string of many MiB is cheap in time and memory."""


class Body(msgspec.Struct):
    """The fields that routing reads; everything else is skipped unparsed. Raw fields are JSON text as it came."""

    model: str | None = None
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None
    messages: msgspec.Raw = ABSENT
    prompt_field: msgspec.Raw = msgspec.field(default=ABSENT, name="prompt")
    input: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT

    @property
    def output_limit(self) -> int | None:
        """Tokens that the client allows for all answers together; None if it sets no (sensible) limit."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            return None
        return limit * (self.n if isinstance(self.n, int) and 1 <= self.n <= 1024 else 1)

    def prompt(self, kind: Kind) -> bytes:
        """The raw JSON that makes up the prompt, tools first, where an engine's chat template puts them."""
        if kind is Kind.CHAT:
            return bytes(self.tools) + bytes(self.messages) if self.tools else bytes(self.messages)
        return bytes(self.prompt_field if kind is Kind.COMPLETION else self.input)


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
    if (rest.find(b'"model"', first + 7) >= 0 or b"\\u006" in rest) and len(_model_values(body)) > 1:
        raise BadRequest("`model` is given twice.", param="model", code="duplicate_key")
    return fields


def _less_its_messages(body: bytes, messages: bytes) -> bytes:
    """What is left of a long body without its `messages`: searching those would cost more than all else that is done.

    The whole body if they are not found at once; they are compared, so that nothing else is ever left out.
    """
    start = body.find(b"[", body.find(b'"messages"') + 10)
    if not messages or not body.startswith(messages, start):
        return body
    return body[:start] + body[start + len(messages) :]


def replace_model(body: bytes, model: str) -> bytes:
    """The same bytes with another value for the top-level `model`, which must be there, once, as a string."""
    (span,) = _model_values(body)
    assert span is not None
    return b"%b%b%b" % (body[: span[0]], msgspec.json.encode(model), body[span[1] :])


def _place(error: Exception) -> str:
    """msgspec's messages are fixed texts with an offset; they never quote the body."""
    return str(error).removeprefix("JSON is malformed: ")


def _model_values(body: bytes) -> list[tuple[int, int] | None]:
    """For each top-level `model` key of a valid JSON object, where its value stands; None if that is no string."""
    found: list[tuple[int, int] | None] = []
    depth = 0
    after_key = False  # the last string at depth 1 was the key `model`
    for token in TOKEN.finditer(body):
        text = token[0]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth == 1:
            if _followed_by_colon(body, token.end()):
                after_key = msgspec.json.decode(text) == "model"
                if after_key:
                    found.append(None)
            elif after_key:
                found[-1] = token.span()
                after_key = False
    return found


def _followed_by_colon(body: bytes, position: int) -> bool:
    while body[position] in b" \t\r\n":
        position += 1
    return body[position] == 0x3A


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
