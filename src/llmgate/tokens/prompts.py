"""The prompt of a decoded request body, read by a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmgate.core.types import Kind
from llmgate.tokens.counter import Chain, Counted, TokenCounter
from llmgate.tokens.errors import TokenizerError


class Pending(NamedTuple):
    unknown_bytes: int  # text that `finish` has to encode
    finish: Callable[[], Counted]  # raises TokenizerError


def prepare_prompt(counter: TokenCounter, kind: Kind, fields: Mapping[str, Any], chain: Chain | None = None) -> Pending:
    """What is left to do for a prompt once what is known of its beginning was looked up.

    `fields` holds those of `messages`, `tools`, `chat_template_kwargs`, `prompt` and `input` that the request has.
    Raises TokenizerError if the prompt is missing, is not of a shape that the API knows, or is refused by the template.
    """
    if kind is not Kind.CHAT:
        prompt = fields.get("prompt" if kind is Kind.COMPLETION else "input")
        return Pending(_text_bytes(prompt), lambda: counter.read_input(prompt, chain))
    messages = fields.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise TokenizerError("messages is not a list of messages")
    tools, variables = fields.get("tools"), fields.get("chat_template_kwargs")
    prepared = counter.prepare_chat(
        messages,
        tools if isinstance(tools, list) else None,
        variables if isinstance(variables, dict) else None,
        chain,
    )
    return Pending(prepared.unknown_bytes, prepared.finish)


def count_prompt(counter: TokenCounter, kind: Kind, fields: Mapping[str, Any]) -> int:
    """Prompt tokens of a decoded request body: `prepare_prompt` done to its end."""
    return prepare_prompt(counter, kind, fields).finish().tokens


def _text_bytes(prompt: object) -> int:
    """About the bytes of text in a `prompt` or `input` field."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part) for part in prompt if isinstance(part, (str, list))) if isinstance(prompt, list) else 0
