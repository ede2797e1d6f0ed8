"""Chat templates rendered the way Hugging Face's `apply_chat_template` documents it, which is what engines do.

A template is code from the model's directory run on a client's messages, hence the sandbox. Where the OpenAI shape of a
message differs from what templates are written for, messages are first brought into the templates' shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmgate.tokens.errors import TokenizerError

Message = Mapping[str, Any]

# What llama.cpp uses for a model without a template; most others refuse to chat with such a model.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a training run learns from; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One template, compiled once. `special_tokens` are its globals (`bos_token`, `eos_token` …).

    Raises TokenizerError if the source is no valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, Any] | None = None) -> None:
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        env.filters["tojson"] = _to_json
        env.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.now().strftime(form))
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = env.from_string(source)
        except TemplateError as error:
            raise TokenizerError(f"the chat template is not valid Jinja: {error}") from None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as the engine sees it, up to where the answer begins. `variables`: `chat_template_kwargs`.

        Raises TokenizerError if the template refuses the messages.
        """
        try:
            return self._render([self._shape(message) for message in messages], tools, variables)
        except Exception as error:  # a template can raise anything, and its words may quote the prompt: only the type
            raise TokenizerError(f"the chat template refuses these messages ({type(error).__name__})") from None

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, variables: Mapping[str, Any] | None
    ) -> str:
        return self._template.render(
            {
                **self._special_tokens,
                "add_generation_prompt": True,
                **(variables or {}),
                "messages": messages,
                "tools": tools or None,
                "documents": None,
            }
        )

    def _shape(self, message: Message) -> Message:
        content = message.get("content")
        shaped: dict[str, Any] = {**message, "content": content}
        if content is None:
            shaped["content"] = ""
        elif isinstance(content, list) and not self._takes_parts:
            shaped["content"] = "\n".join(text_parts(content))
        if calls := message.get("tool_calls"):
            shaped["tool_calls"] = [_parsed_arguments(call) for call in calls]
        return shaped

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template walks a list of content parts itself: found out by trying one."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            seen = self._render(probe, None, None)
        except Exception:  # it took the list for a string
            return False
        return "probe" in seen and "'type'" not in seen and '"type"' not in seen


def text_parts(content: Sequence[Any]) -> list[str]:
    """The texts of a list of content parts; images and sounds have none."""
    return [
        part if isinstance(part, str) else part["text"]
        for part in content
        if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
    ]


def _parsed_arguments(call: Any) -> Any:
    """OpenAI carries the arguments of a tool call as a JSON string, templates expect the object."""
    try:
        function = call["function"]
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except (KeyError, TypeError, ValueError):
        return call


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own tojson escapes HTML, which no engine does
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
