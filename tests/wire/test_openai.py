from __future__ import annotations

import json
import re
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.errors import BadRequest, ModelNotFound
from llmgate.core.types import Kind
from llmgate.wire.kinds import KINDS, OPENAI
from llmgate.wire.openai import error_body, parse_body, replace_model


def test_the_fields_of_routing_are_read_and_the_rest_is_left() -> None:
    body = parse_body(
        b'{"model":"m","stream":true,"max_tokens":7,"n":2,"messages":[{"role":"user","content":"hi"}],"x":{"y":[1]}}'
    )
    assert (body.model, body.stream, KINDS[Kind.CHAT].output_limit(body)) == ("m", True, 14)
    assert KINDS[Kind.CHAT].prompt_of(body) == b'[{"role":"user","content":"hi"}]'


def test_the_prompt_is_raw_json_with_tools_first() -> None:
    body = parse_body(b'{"messages":[1],"prompt":"p","tools":[{"x": 2}],"input":["i"]}')
    assert KINDS[Kind.CHAT].prompt_of(body) == b'[{"x": 2}][1]'
    assert KINDS[Kind.COMPLETION].prompt_of(body) == b'"p"'
    assert KINDS[Kind.EMBEDDING].prompt_of(body) == b'["i"]'


@pytest.mark.parametrize("where", ["before", "after", "both", "inside"])
def test_a_long_body_is_searched_for_a_second_model_around_its_messages(where: str) -> None:
    messages = [{"role": "user", "content": 'say "model" ' * 1000, "model": "inner"}]
    fields = {"before": ("model", "messages"), "after": ("messages", "model"), "inside": ("messages",)}
    keys = fields.get(where, ("model", "messages", "model"))
    values = {"model": '"m"', "messages": json.dumps(messages)}
    body = "{" + ",".join(f'"{key}" : {values[key]}' for key in keys) + "}"
    if where == "both":
        with pytest.raises(BadRequest, match="given twice"):
            parse_body(body.encode())
    else:
        assert parse_body(body.encode()).model == (None if where == "inside" else "m")


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3),
        ({"max_tokens": None}, None),
        ({"max_tokens": "many"}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": 5, "n": "x"}, 5),
        ({"max_tokens": 5, "n": 0}, 5),
        ({"max_tokens": 5, "n": 100_000}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 5.0}, None),
        ({"max_tokens": 10**30}, None),
        ({"max_tokens": [5]}, None),
        ({"max_tokens": 5, "prompt": "one"}, 5),
        ({"max_tokens": 5, "prompt": ["one"]}, 5),
        ({"max_tokens": 5, "prompt": ["one", 't"w\\', '[\\"'], "n": 2}, 30),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        ({"max_tokens": 5, "prompt": [[1, 2], [], [3]]}, 15),
        ({"max_tokens": 5, "prompt": []}, 5),
        ({"max_tokens": 5, "messages": [{"role": "user"}, {"role": "user"}]}, 5),
    ],
)
def test_the_output_limit_is_what_the_client_allows(fields: dict[str, object], limit: int | None) -> None:
    for indent in (None, 2):
        body = parse_body(json.dumps(fields, indent=indent).encode())
        assert KINDS[Kind.COMPLETION].output_limit(body) == limit


@pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 5000, "{}", "[" * 100 + "]" * 100])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "stream"])
def test_a_field_of_a_strange_value_is_left_to_the_engine(field: str, value: str) -> None:
    body = parse_body(f'{{"model":"m","{field}":{value}}}'.encode())
    assert (body.model, body.stream, KINDS[Kind.CHAT].output_limit(body)) == ("m", False, None)


@pytest.mark.parametrize(("value", "stream"), [("true", True), ("false", False), ("1", False), ('"true"', False)])
def test_only_true_asks_for_a_stream(value: str, stream: bool) -> None:
    assert parse_body(f'{{"stream": {value} }}'.encode()).stream is stream


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model":"m"', "not valid JSON"),
        (b'{"model":"m"} x', "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"model":7}', "`model` must be a string"),
        (b'{"model":"\xff"}', "not valid JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"x":' + b"[" * 100_000, "nested too deeply"),
        (b'{"model":"a","model":"b"}', "`model` is given twice"),
        (b'{"model":"a","x":{"model":"c"},"\\u006dodel":"b"}', "`model` is given twice"),
        (b'{"model":null,"model":"b"}', "`model` is given twice"),
    ],
)
def test_a_bad_body_is_refused_with_a_reason(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse_body(body)


def test_errors_never_quote_the_body() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(b'{"model":"m","messages":[{"content":"my secret"')
    assert "secret" not in caught.value.message


def test_model_elsewhere_than_at_the_top_is_not_the_model() -> None:
    body = parse_body(b'{"tools":[{"model":"inner"}],"messages":[{"content":"\\"model\\": \\"x\\""}],"model":"outer"}')
    assert body.model == "outer"


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"old","messages":[]}',
        '{ "model" :\n "old" , "tools": [{"model": "old"}] }',
        '{"tools":[{"model":"old"}],"x":"model","model":"old"}',
        '{"y":{"z":["model",{"model":"a"}]},"\\u006dodel":"old","e":"é"}',
        '{"a":"\\\\","model":"old","b":"\\"model\\":\\"old\\""}',
    ],
)
def test_replacing_the_model_changes_nothing_else(body: str) -> None:
    replaced = replace_model(body.encode(), "new/name").decode()
    expected = json.loads(body)
    expected["model"] = "new/name"
    assert json.loads(replaced) == expected
    assert replaced.count("new/name") == 1
    assert len(replaced) == len(body) + len("new/name") - len("old")


KEY = st.text(max_size=8) | st.just("model")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEY, JSON, max_size=5), st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_any_body_round_trips(data: dict[str, object], old: str, new: str, ascii_only: bool) -> None:
    data["model"] = old
    body = json.dumps(data, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        assert parse_body(body).model == old
    except BadRequest:
        return  # lone surrogates: not JSON that travels
    assert json.loads(replace_model(body, new)) == {**data, "model": new}


# Which `model` is the top one: the decoder's word against a loop over every string and bracket.

TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


def top_models(body: bytes) -> list[tuple[int, int] | None]:
    """For each top-level `model` key, where its value stands; None if that is no string."""
    found: list[tuple[int, int] | None] = []
    depth = 0
    after_key = False
    for token in TOKEN.finditer(body):
        text = token[0]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth == 1:
            if body[token.end() :].lstrip().startswith(b":"):
                after_key = json.loads(text) == "model"
                if after_key:
                    found.append(None)
            elif after_key:
                found[-1] = token.span()
                after_key = False
    return found


BLANK = st.sampled_from(["", "", " ", "\n\t"])
SPELLED = st.sampled_from(
    ['"model"', '"model"', '"\\u006dodel"', '"mo\\u0064E"', '"m\\u006F\\u0064el"', '"x\\"model"', '"x"']
)
STRING = st.text('":,{}[]\\mo', max_size=6).map(json.dumps) | st.sampled_from(['"model"', '"m"', '":"', '","', '""'])
VALUE = st.recursive(
    STRING | st.sampled_from(["null", "true", "-1.5e3"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(SPELLED, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{key} :{value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.tuples(BLANK, SPELLED, BLANK, VALUE), max_size=5), st.sampled_from(["", "new/name", '{"}']))
def test_the_top_model_is_found_as_by_reading_every_token(fields: list[tuple[str, ...]], new: str) -> None:
    body = ("{" + ",".join(f"{a}{key}{b}:{a}{value}{b}" for a, key, b, value in fields) + "}").encode()
    spans, model = top_models(body), json.loads(body).get("model")
    if len(spans) > 1 or not isinstance(model, str | None):
        with pytest.raises(BadRequest, match=r"`model` (is given twice|must be a string)"):
            parse_body(body)
        return
    assert parse_body(body).model == model
    if model is not None:
        (span,) = spans
        assert span is not None
        assert replace_model(body, new) == body[: span[0]] + json.dumps(new).encode() + body[span[1] :]


@pytest.mark.parametrize("filler", [b"{},", b'"",', b'{"":0},', b'{"model":"m"},', b'"model",'])
def test_no_body_can_make_the_search_for_its_model_long(filler: bytes) -> None:
    """As many steps of Python for a long body as for a short one: the loop would stand still meanwhile."""

    def steps(size: int) -> int:
        count = 0

        def step(*_: object) -> Any:
            nonlocal count
            count += 1
            return step

        body = b'{"metadata":{"model":"x"},"z":[' + filler * (size // len(filler)) + b'0],"model":"m"}'
        sys.settrace(step)
        try:
            parse_body(body)
            replaced = replace_model(body, "other")
        finally:
            sys.settrace(None)
        assert replaced == body[:-4] + b'"other"}'
        return count

    assert steps(2**20) < 2 * steps(2**12)


def test_errors_have_openais_envelope() -> None:
    assert json.loads(error_body(ModelNotFound("gpt-9"))) == {
        "error": {
            "message": "The model `gpt-9` does not exist.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_error_event_first_ends_an_event_that_was_cut() -> None:
    error = BadRequest("broken")
    assert OPENAI.closing_event(error, between_events=True).startswith(b"data: {")
    assert OPENAI.closing_event(error, between_events=False).startswith(b"\n\ndata: {")
    assert OPENAI.closing_event(error, between_events=False).endswith(b"}\n\n")


@pytest.mark.parametrize("content", ["x", '\\n\\"'], ids=["plain", "escapes"])
def test_looking_for_the_model_in_a_long_body_takes_little_memory(content: str) -> None:
    """A regular expression that can backtrack into a string remembers every byte of it: some 130 times the body."""
    size = 2**20
    body = b'{"metadata":{"model":"x"},"prompt":"' + content.encode() * (size // len(content)) + b'","model":"m"}'
    tracemalloc.start()
    assert parse_body(body).model == "m"
    assert len(replace_model(body, "other")) == len(body) + 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * size
