from __future__ import annotations

from typing import Any

import pytest

from llmgate.core.types import Kind
from llmgate.tokens import TokenCounter, count_prompt, load_tokenizer
from llmgate.wire.kinds import KINDS

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"city": "Paris"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA}}],
}


def countable(kind: Kind, **fields: Any) -> tuple[Kind, dict[str, Any]]:
    turn = KINDS[kind].countable
    assert turn is not None
    return turn(fields)


def test_anthropics_messages_are_the_chat_that_engines_make_of_them() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Paris"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Rain."}]}],
        },
    ]
    tools = [{"name": "look", "description": "d", "input_schema": SCHEMA}]
    system = [{"type": "text", "text": "Be brief."}]
    assert countable(Kind.MESSAGES, system=system, messages=turns, tools=tools) == (Kind.CHAT, CHAT)
    plain = countable(Kind.MESSAGES, system="Be brief.", messages=[{"role": "user", "content": "Weather in Paris?"}])
    assert plain == (Kind.CHAT, {"messages": CHAT["messages"][:2]})


def test_responses_are_the_chat_that_engines_make_of_them() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather in Paris?"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": {"city": "Paris"}},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
    ]
    tools = [{"type": "function", "name": "look", "description": "d", "parameters": SCHEMA}, {"type": "web_search"}]
    kind, fields = countable(Kind.RESPONSES, instructions="Be brief.", input=items, tools=tools)
    assert (kind, fields["messages"]) == (Kind.CHAT, CHAT["messages"])
    assert [tool["function"]["name"] for tool in fields["tools"]] == ["look"]
    text = countable(Kind.RESPONSES, instructions="Be brief.", input="Weather in Paris?")
    assert text == (Kind.CHAT, {"messages": CHAT["messages"][:2]})


@pytest.mark.parametrize("field", ["inputs", "text"])
def test_generations_are_plain_prompts(field: str) -> None:
    assert countable(Kind.GENERATE, **{field: "a b"}) == (Kind.COMPLETION, {"prompt": "a b"})


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return load_tokenizer("embedded")


def test_they_count_as_the_chat_does(counter: TokenCounter) -> None:
    said = {"messages": [{"role": "user", "content": "Hello there"}]}
    tokens = count_prompt(counter, Kind.CHAT, said)
    assert count_prompt(counter, *countable(Kind.MESSAGES, **said)) == tokens
    assert count_prompt(counter, *countable(Kind.RESPONSES, input="Hello there")) == tokens
