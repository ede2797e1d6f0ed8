"""Rules of tokens/counter.py, and its exactness against what a real engine reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmgate.core.types import Kind
from llmgate.tokens import TokenCounter, TokenizerError, count_prompt, load_tokenizer
from tests.tokens.record_engine_ids import requests

ENGINE_IDS = Path(__file__).with_name("engine_ids.jsonl")


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return load_tokenizer("embedded")


@pytest.mark.parametrize("pair", requests(), ids=lambda pair: str(pair["prompt_tokens"]))
def test_the_count_is_the_one_that_the_engine_reported(counter: TokenCounter, pair: dict[str, Any]) -> None:
    kind = Kind.CHAT if "messages" in pair else Kind.COMPLETION
    assert count_prompt(counter, kind, pair) == pair["prompt_tokens"]


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_the_ids_are_those_that_real_engines_compute(counter: TokenCounter, engine: str) -> None:
    answers = [json.loads(line)[engine] for line in ENGINE_IDS.read_text("utf-8").splitlines()]
    compared = 0
    for request, ids in zip(requests(), answers, strict=True):
        if ids is None:  # asked for by ids
            continue
        if "messages" in request:
            assert list(counter.chat_ids(request["messages"], request.get("tools"))) == ids
        else:
            assert list(counter.text_ids(request["prompt"])) == ids
        compared += 1
    assert compared == 53


def test_token_ids_are_counted_as_they_are(counter: TokenCounter) -> None:
    assert counter.count_input([5, 6, 7]) == 3
    assert counter.count_input([[5, 6, 7], [8]]) == 4


def test_a_list_of_texts_counts_as_their_sum(counter: TokenCounter) -> None:
    assert counter.count_input(["one two", "three"]) == counter.count_text("one two") + counter.count_text("three")


def test_each_kind_of_request_has_its_field(counter: TokenCounter) -> None:
    assert count_prompt(counter, Kind.COMPLETION, {"prompt": "one two"}) == 2
    assert count_prompt(counter, Kind.EMBEDDING, {"input": ["one", "two"]}) == 2
    assert count_prompt(counter, Kind.CHAT, {"messages": [{"role": "user", "content": "hi"}]}) == 31


def test_images_are_not_counted(counter: TokenCounter) -> None:
    text = {"type": "text", "text": "hi"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
    assert counter.count_chat([{"role": "user", "content": [text, image]}]) == 31


def test_lone_surrogates_are_counted_and_not_refused(counter: TokenCounter) -> None:
    assert counter.count_text("a\ud800b") == counter.count_text("a?b")
    assert counter.count_chat([{"role": "user", "content": "a\ud800b"}]) > 31


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.CHAT, {}),
        (Kind.CHAT, {"messages": "hi"}),
        (Kind.CHAT, {"messages": ["hi"]}),
        (Kind.CHAT, {"messages": [{"content": "secret words"}]}),
        (Kind.CHAT, {"messages": [{"role": "user", "content": {"secret": "words"}}]}),
        (Kind.COMPLETION, {}),
        (Kind.COMPLETION, {"prompt": {"secret": "words"}}),
        (Kind.COMPLETION, {"prompt": ["secret", 1]}),
        (Kind.COMPLETION, {"prompt": 5}),
        (Kind.EMBEDDING, {"prompt": "secret words"}),
    ],
)
def test_an_impossible_prompt_is_one_error_that_does_not_quote_it(
    counter: TokenCounter, kind: Kind, fields: dict[str, Any]
) -> None:
    with pytest.raises(TokenizerError) as caught:
        count_prompt(counter, kind, fields)
    assert "secret" not in str(caught.value)
