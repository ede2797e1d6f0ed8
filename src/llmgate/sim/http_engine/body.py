"""Bodies of completion requests: what they may hold, and what of it counts here."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from llmgate.sim.http_engine.errors import Refused, bad_field, bad_request, not_as_described
from llmgate.sim.http_engine.tokenizer import TokenIds, Tokenizer

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Body(msgspec.Struct):
    """Of both APIs: everything else (temperature, stop, tools' choice …) is taken and makes no difference."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int | str | list[int]] | None = None  # of one kind: text, ids, or a list of either
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int | None = 1
    seed: _Int64 | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    priority: _Int64 = 0
    cache_salt: str | None = None

    @property
    def asked_max_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


_T = TypeVar("_T")


def decode(raw: bytes, kind: type[_T]) -> _T:
    """Raises Refused where it is no JSON or not of that shape."""
    try:
        return msgspec.json.decode(raw, type=kind, strict=True)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        field = re.sub(r"^\.|`$", "", where)
        raise not_as_described(problem, f"body.{field}" if field else "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise not_as_described("JSON decode error", "body") from None


def decode_body(raw: bytes, *, chat: bool) -> Body:
    """A request that can be served. Raises Refused."""
    body = decode(raw, Body)
    if body.stream_options is not None and not body.stream:
        raise bad_field("stream_options", "Stream options can only be defined when `stream=True`.")
    if body.n not in (None, 1):
        raise bad_field("n", "This simulated engine gives one answer a request.", body.n)
    if chat and body.messages is None:
        raise not_as_described("Field required", "body.messages")
    if not chat and not body.prompt:
        raise bad_field("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
    return body


def prompt_ids(body: Body, tokenizer: Tokenizer, *, chat: bool) -> TokenIds:
    """At least one token. Raises Refused."""
    if chat:
        if not body.messages:
            raise bad_request("Cannot apply chat template to an empty conversation. Provide at least one message.")
        try:
            return tokenizer.encode_chat(body.messages, body.tools, body.chat_template_kwargs)
        except ValueError as error:
            raise bad_request(str(error)) from None
    prompt: object = body.prompt
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise bad_field("prompt", "This simulated engine takes one prompt a request.")
        prompt = prompt[0]
        if not prompt:
            raise bad_field("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if isinstance(prompt, list) and all(type(token) is int for token in prompt):
        return _checked_ids(prompt, tokenizer)
    raise not_as_described("Input should be text or token ids", "body.prompt")


def _checked_ids(ids: list[int], tokenizer: Tokenizer) -> TokenIds:
    if min(ids) < 0 or max(ids) >= tokenizer.vocabulary:
        wrong = next(token for token in ids if not 0 <= token < tokenizer.vocabulary)
        raise bad_request(f"Token id {wrong} is out of vocabulary")
    return np.array(ids, np.uint32)


def answer_limit(body: Body, prompt_tokens: int, max_model_len: int) -> int:
    """The most tokens that the answer may have, at least 1. Raises Refused, in the order in which vLLM looks."""
    asked = body.asked_max_tokens
    if asked is not None and asked > max_model_len:
        raise bad_field(
            "max_tokens",
            f"max_tokens={asked} cannot be greater than max_model_len={max_model_len}. Please request fewer output "
            "tokens.",
            asked,
        )
    if prompt_tokens > max_model_len:
        raise _too_long(prompt_tokens, max_model_len)
    limit = max_model_len - prompt_tokens if asked is None else min(asked, max_model_len - prompt_tokens)
    if limit < 1:
        raise bad_field("max_tokens", f"max_tokens must be at least 1, got {limit}.", limit)
    if body.min_tokens > limit:
        raise bad_request(f"min_tokens must be less than or equal to max_tokens={limit}, got {body.min_tokens}.")
    return limit


def _too_long(prompt_tokens: int, max_model_len: int) -> Refused:
    return bad_field(
        "input_tokens",
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains {prompt_tokens} "
        "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
        "prompt.",
        prompt_tokens,
    )
