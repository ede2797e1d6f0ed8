from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.wire.headers import Header
from llmgate.wire.openai import parse_body
from llmgate.wire.session import LONGEST, session_key

EVERYTHING: dict[str, Any] = {
    "prompt_cache_key": "k1",
    "session_id": "k2",
    "conversation_id": "k3",
    "metadata": {"session_id": "k4"},
    "user": "k5",
}


def key(body: dict[str, Any], *headers: Header) -> str | None:
    return session_key(headers, parse_body(json.dumps(body).encode()))


def test_the_header_comes_first_and_then_the_body_in_the_order_of_the_contract() -> None:
    assert key(EVERYTHING, (b"x-session-id", b" k0 ")) == "k0"
    body = dict(EVERYTHING)
    for expected in ("k1", "k2", "k3", "k4", "k5"):
        assert key(body) == expected
        del body[next(iter(body))]
    assert key(body) is None


@pytest.mark.parametrize("nothing", [None, "", [], {}, True, 1.5, ["k"], {"session_id": None}, {"x": "session_id"}])
def test_what_is_no_text_and_no_number_is_passed_over(nothing: Any) -> None:
    assert key(dict.fromkeys(EVERYTHING, nothing)) is None
    assert key({**dict.fromkeys(EVERYTHING, nothing), "user": "u"}) == "u"


def test_an_empty_header_is_passed_over() -> None:
    assert key({"user": "u"}, (b"x-session-id", b" ")) == "u"


def test_numbers_count_as_their_text() -> None:
    assert key({"user": 42}) == key({"metadata": {"session_id": 42}}) == "42"


def test_a_long_key_is_represented_by_its_hash() -> None:
    keys = {key({"user": "x" * length}) for length in (LONGEST, LONGEST + 1, 100_000)}
    assert len(keys) == 3
    assert all(found is not None and len(found) <= LONGEST for found in keys)
