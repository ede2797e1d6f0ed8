from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.bench.body import BodyForm
from llmgate.bench.errors import BenchError
from llmgate.bench.prompts import PromptWriter, Sizing, fit
from llmgate.bench.tokenizer import exact_writer
from llmgate.bench.words import WORDS
from llmgate.tokens import load_tokenizer
from llmgate.workloads import TraceRequest

BLOCK = 16


def request(tokens: int, *blocks: int) -> TraceRequest:
    return TraceRequest(0.0, tokens, 1, blocks=blocks, block_tokens=BLOCK)


def words(prompt: bytes) -> list[str]:
    return prompt.decode("ascii").split(" ")


def shared(a: bytes, b: bytes) -> int:
    """Words that both begin with."""
    pairs = list(zip(words(a), words(b), strict=False))
    return next((n for n, (left, right) in enumerate(pairs) if left != right), len(pairs))


def test_there_are_512_different_words_that_json_need_not_escape() -> None:
    assert len(set(WORDS)) == len(WORDS) == 512
    assert all(word.isascii() and word.isalpha() for word in WORDS)


def test_prompts_share_what_their_blocks_share_and_no_more() -> None:
    writer = PromptWriter(Sizing())
    a = writer.prompt(request(64, 1, 2, 3, 4), 0)
    b = writer.prompt(request(64, 1, 2, 5, 6), 1)
    assert shared(a, b) == 2 * BLOCK
    assert len(words(a)) == len(words(b)) == 64


def test_a_prompt_that_ends_within_a_block_shares_its_part_of_it() -> None:
    writer = PromptWriter(Sizing(overhead=5))
    turn, next_turn = writer.prompt(request(40, 1, 2, 3), 0), writer.prompt(request(60, 1, 2, 3), 1)
    assert next_turn.startswith(turn + b" ")


def test_prompts_without_blocks_share_nothing_not_even_with_blocks_of_the_same_number() -> None:
    writer = PromptWriter(Sizing())
    prompts = [writer.prompt(request(32), n) for n in range(200)] + [
        writer.prompt(request(32, n, n), n) for n in range(200)
    ]
    prompts += [writer.sample(32, n) for n in range(200)]
    assert len({tuple(words(prompt)[:4]) for prompt in prompts}) == 600


def test_the_same_seed_gives_the_same_text_and_another_one_another() -> None:
    def text(seed: int) -> bytes:
        return PromptWriter(Sizing(), seed).prompt(request(40, 7, 8), 3)

    assert text(1) == text(1)
    assert shared(text(1), text(2)) < 4


@given(
    tokens=st.integers(1, 3000),
    blocks=st.lists(st.integers(0, 2**64 - 1), max_size=200),
    rate=st.floats(0.5, 4),
    overhead=st.floats(0, 60),
)
def test_lengths_come_out_to_the_word(tokens: int, blocks: list[int], rate: float, overhead: float) -> None:
    prompt = PromptWriter(Sizing(rate, overhead)).prompt(request(tokens, *blocks), 0)
    expected = max(tokens, overhead + rate)
    assert len(words(prompt)) * rate + overhead == pytest.approx(expected, abs=rate)


def test_a_prompt_longer_than_the_pool_of_words_goes_round_in_it() -> None:
    assert len(words(PromptWriter(Sizing()).prompt(request(200_000), 0))) == 200_000


def test_the_fit_finds_the_template_and_the_words() -> None:
    sizing = fit([(32, 20 + 48), (512, 20 + 768 - 6), (512, 20 + 768 + 6)], "usage")
    assert sizing.tokens_per_word == pytest.approx(1.5)
    assert sizing.overhead == pytest.approx(20)


def test_prompt_tokens_that_do_not_grow_fit_nothing() -> None:
    with pytest.raises(ValueError, match="do not grow"):
        fit([(32, 300), (512, 300)], "usage")


@pytest.mark.parametrize("chat", [True, False])
def test_a_tokenizer_makes_prompts_of_exactly_the_length_that_is_asked_for(chat: bool) -> None:
    counter = load_tokenizer("embedded")
    writer = exact_writer("embedded", chat=chat, seed=5)
    for tokens, blocks in ((100, ()), (1000, range(62)), (4096, range(256)), (333, range(90))):
        text = writer.prompt(request(tokens, *blocks), 0).decode()
        counted = counter.count_chat([{"role": "user", "content": text}]) if chat else counter.count_text(text)
        assert counted == tokens


def test_a_tokenizer_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="--tokenizer /nowhere"):
        exact_writer("/nowhere", chat=True, seed=0)


def test_bodies_are_json_with_what_the_form_says() -> None:
    body = json.loads(BodyForm(extra={"temperature": 0}).body('a "b"', b"one two", 7, priority=2))
    assert body == {
        "model": 'a "b"',
        "messages": [{"role": "user", "content": "one two"}],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "priority": 2,
        "temperature": 0,
    }


def test_a_plain_completion_has_a_prompt_and_nothing_that_was_not_asked_for() -> None:
    form = BodyForm("completions", stream=False, ignore_eos=False, limit="max_completion_tokens")
    assert json.loads(form.body("m", b"one", 7)) == {"model": "m", "prompt": "one", "max_completion_tokens": 7}
