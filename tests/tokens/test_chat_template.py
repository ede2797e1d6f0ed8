"""Rules of tokens/chat_template.py."""

from typing import Any

import pytest

from llmgate.tokens import TokenizerError
from llmgate.tokens.chat_template import ChatTemplate

USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, **options)


def test_special_tokens_and_the_generation_prompt_are_there() -> None:
    assert render("{{ bos_token }}{% if add_generation_prompt %}go{% endif %}") == "<s>go"


def test_blocks_leave_no_blank_lines() -> None:
    assert (
        render("{% for m in messages %}\n  {% if m.role %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n") == "hi\n"
    )


def test_loops_can_be_left() -> None:
    assert render("{% for m in messages * 3 %}{% if loop.index == 2 %}{% break %}{% endif %}x{% endfor %}") == "x"


def test_generation_marks_are_transparent() -> None:
    assert render("a{% generation %}b{{ messages[0].content }}{% endgeneration %}c") == "abhic"


def test_json_is_not_escaped_for_html_nor_to_ascii() -> None:
    tools = [{"name": "<é>"}]
    assert render("{{ tools | tojson }}", tools=tools) == '[{"name": "<é>"}]'
    assert render("{{ tools | tojson(indent=1) }}", tools=tools) == '[\n {\n  "name": "<é>"\n }\n]'


def test_a_template_can_ask_for_the_date() -> None:
    assert len(render("{{ strftime_now('%Y') }}")) == 4


def test_no_tools_is_none_and_not_an_empty_list() -> None:
    assert render("{{ tools is none }}", tools=[]) == "True"


def test_variables_of_the_request_reach_the_template_but_cannot_replace_its_messages() -> None:
    assert render(
        "{{ enable_thinking }}{{ messages[0].content }}", variables={"enable_thinking": 1, "messages": 2}
    ) == ("1hi")


def test_missing_content_is_empty_text() -> None:
    assert render("{{ 'x' + messages[0].content }}", [{"role": "assistant", "content": None}]) == "x"
    assert render("{{ 'x' + messages[0].content }}", [{"role": "assistant"}]) == "x"


PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]}
]


def test_a_template_that_wants_text_gets_the_text_parts_joined() -> None:
    assert render("{{ 'x' + messages[0].content }}", PARTS) == "xa\nb"
    assert render("{{ messages[0].content }}", PARTS) == "a\nb"


def test_a_template_that_walks_the_parts_gets_them() -> None:
    assert render("{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}", PARTS) == "[a][][b]"


def test_the_arguments_of_a_tool_call_are_an_object() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"city": "Oslo"}'}}
    source = "{{ messages[0].tool_calls[0].function.arguments.city }}"
    assert render(source, [{"role": "assistant", "content": None, "tool_calls": [call]}]) == "Oslo"


@pytest.mark.parametrize(
    "call", [{}, {"function": {"arguments": "{"}}, "nonsense", None, {"function": {"arguments": 5}}]
)
def test_malformed_tool_calls_are_left_as_they_are(call: Any) -> None:
    messages = [{"role": "assistant", "content": "x", "tool_calls": [call]}]
    assert render("{{ messages[0].content }}", messages) == "x"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception(messages[0].content) }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content.x }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}{{ messages[0].__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_template_that_raises_is_one_error_that_does_not_quote_the_prompt(source: str) -> None:
    with pytest.raises(TokenizerError, match="refuses these messages") as caught:
        render(source, [{"role": "user", "content": "secret"}])
    assert "secret" not in str(caught.value)


def test_a_broken_template_is_refused_at_once() -> None:
    with pytest.raises(TokenizerError, match="not valid Jinja"):
        ChatTemplate("{% if %}")
