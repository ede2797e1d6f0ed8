from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.sim.http_engine.lengths import DEFAULT, parse_lengths
from llmgate.sim.http_engine.real_tokenizer import RealTokenizer
from llmgate.sim.http_engine.tokenizer import END, START, Filler, FourByteTokenizer, Tokenizer
from llmgate.tokens import EMBEDDED, load_tokenizer

CHAT = [{"role": "user", "content": "Hello there, how are you?"}]


@pytest.fixture(scope="module", params=["four bytes", "embedded"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return FourByteTokenizer() if request.param == "four bytes" else RealTokenizer(EMBEDDED)


@given(st.text())
def test_four_byte_tokens_can_be_undone(text: str) -> None:
    tokenizer = FourByteTokenizer()
    ids = tokenizer.encode(text)
    clean = text.encode("utf-8", "replace").decode()
    assert tokenizer.decode(ids.tolist()) == clean
    assert len(ids) == -(-len(clean.encode()) // 4)
    assert not {START, END} & {*ids.tolist()}


def test_an_answer_that_comes_back_has_the_tokens_that_it_was_made_of(tokenizer: Tokenizer) -> None:
    filler = Filler(tokenizer.words)
    text = b"".join(filler.pieces(12_345_678, 200)).decode()
    answer = {"role": "assistant", "content": text}
    before = tokenizer.encode_chat(CHAT, None, None).tolist()
    after = tokenizer.encode_chat([*CHAT, answer], None, None).tolist()
    assert after[: len(before)] == before
    assert after[len(before) : len(before) + 201] == [*filler.ids(12_345_678, 200).tolist(), tokenizer.end]


def test_pieces_stand_within_a_json_string(tokenizer: Tokenizer) -> None:
    pieces = Filler(tokenizer.words).pieces(Filler.LENGTH - 3, 10)
    assert len(msgspec.json.decode(b'["' + b'","'.join(pieces) + b'"]')) == 10


def test_tools_and_calls_are_part_of_the_prompt() -> None:
    tokenizer = FourByteTokenizer()
    plain = tokenizer.encode_chat(CHAT, None, None)
    assert len(tokenizer.encode_chat(CHAT, [{"type": "function"}], None)) > len(plain)
    called: list[dict[str, Any]] = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert len(tokenizer.encode_chat(called, None, None)) > len(plain)


def test_a_real_tokenizer_counts_as_the_gateway_does() -> None:
    assert len(RealTokenizer(EMBEDDED).encode_chat(CHAT, None, None)) == load_tokenizer(EMBEDDED).count_chat(CHAT)


def test_lengths_have_the_distribution_that_is_asked_for() -> None:
    assert {parse_lengths("30").draw(seed) for seed in range(50)} == {30}
    uniform = [parse_lengths("uniform:5:9").draw(seed) for seed in range(500)]
    assert {*uniform} == {5, 6, 7, 8, 9}
    default = sorted(parse_lengths(DEFAULT).draw(seed) for seed in range(20_001))
    assert default[10_000] == pytest.approx(151, rel=0.05)
    assert parse_lengths(DEFAULT).draw(7) == parse_lengths(DEFAULT).draw(7)


@pytest.mark.parametrize("text", ["", "0", "x", "uniform:9:5", "uniform:1", "lognormal:0:1", "gamma:1:2", "1:2"])
def test_what_is_no_distribution_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="uniform:LOW:HIGH"):
        parse_lengths(text)
