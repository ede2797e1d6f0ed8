"""The table of kinds: prompts, limits, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.core.errors import BadRequest, InternalError, LlmgateError, ModelNotFound, NoReadyEndpoint, Truncated
from llmgate.core.types import Kind
from llmgate.wire.kinds import ANTHROPIC, KINDS, OPENAI, RESPONSES, ROUTES, dialect_of
from llmgate.wire.openai import parse_body


def of(kind: Kind, **fields: Any) -> tuple[bytes, int | None]:
    body = parse_body(json.dumps(fields, separators=(",", ":")).encode())
    return KINDS[kind].prompt_of(body), KINDS[kind].output_limit(body)


def test_every_kind_is_in_the_table_and_every_route_has_a_kind() -> None:
    assert set(KINDS) == set(Kind)
    assert set(ROUTES.values()) == set(Kind) - {Kind.OTHER}


def test_prompts_are_the_fields_in_the_order_in_which_engines_put_them_together() -> None:
    assert of(Kind.RESPONSES, input="i", instructions="s", tools=[1])[0] == b'[1]"s""i"'
    assert of(Kind.MESSAGES, messages=[2], system="s", tools=[1])[0] == b'[1]"s"[2]'
    assert of(Kind.RERANK, documents=["d"], query="q")[0] == b'"q"["d"]'
    assert of(Kind.SCORE, text_1="a", text_2=["b"])[0] == b'"a"["b"]'
    assert of(Kind.GENERATE, inputs="hi")[0] == of(Kind.GENERATE, text="hi")[0] == b'"hi"'
    assert of(Kind.TOKENIZE, prompt="hi", content="hi")[0] == b""


@pytest.mark.parametrize(
    ("kind", "fields", "limit"),
    [
        (Kind.RESPONSES, {"max_output_tokens": 7, "max_tokens": 9}, 7),
        (Kind.MESSAGES, {"max_tokens": 9}, 9),
        (Kind.GENERATE, {"parameters": {"max_new_tokens": 5, "top_k": 1}}, 5),
        (Kind.GENERATE, {"sampling_params": {"max_new_tokens": 6}}, 6),
        (Kind.GENERATE, {"parameters": {"max_new_tokens": None}}, None),
        (Kind.GENERATE, {"parameters": {}}, None),
        (Kind.GENERATE, {"parameters": [5]}, None),
        (Kind.GENERATE, {"parameters": 5}, None),
        (Kind.GENERATE, {"max_tokens": 5}, None),
        (Kind.EMBEDDING, {"max_tokens": 5}, None),
    ],
)
def test_the_limit_of_the_output_stands_where_the_kind_has_it(
    kind: Kind, fields: dict[str, Any], limit: int | None
) -> None:
    assert of(kind, **fields)[1] == limit


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("b"), "invalid_request_error"),
        (ModelNotFound("m"), "not_found_error"),
        (NoReadyEndpoint("n"), "overloaded_error"),
        (InternalError("i"), "api_error"),
        (Truncated("t"), "api_error"),
    ],
)
def test_anthropics_clients_get_anthropics_errors(error: LlmgateError, kind: str) -> None:
    said = {"type": "error", "error": {"type": kind, "message": error.message}}
    assert json.loads(ANTHROPIC.body(error)) == said
    name, data, *rest = ANTHROPIC.event(error).split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == said
    assert rest == [b"", b""]


def test_the_dialect_of_a_path_is_its_kinds() -> None:
    assert dialect_of(b"/v1/messages?beta=true") is dialect_of(b"/v1/messages/count_tokens") is ANTHROPIC
    assert dialect_of(b"/v1/responses") is RESPONSES
    assert dialect_of(b"/v1/chat/completions") is dialect_of(b"/nowhere\xff") is OPENAI


def test_an_error_in_a_stream_of_responses_is_an_event_of_theirs_and_openais_envelope() -> None:
    name, data, *_ = RESPONSES.event(Truncated("cut")).split(b"\n")
    said = json.loads(data.removeprefix(b"data: "))
    assert (name, said["type"], said["code"], said["message"]) == (b"event: error", "error", "truncated", "cut")
    assert said["error"]["code"] == "truncated"
