"""Rules of tokens/cuts.py: a cut changes no ids, and where that is not sure there is none."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from llmgate.tokens import load as load_module
from llmgate.tokens.chat_template import CHATML, ChatTemplate
from llmgate.tokens.cuts import Cutter, find_cuts
from llmgate.tokens.encoders import Encoder, Special, open_encoder

EMBEDDED = Path(load_module.__file__).parent / "embedded" / "tokenizer.json"
START, END = Special("<|im_start|>", True), Special("<|im_end|>", True)
NONE = array("I")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder(EMBEDDED.read_text("utf-8"), "m")


def letters(text: str) -> array[int]:
    """A tokenizer for which any cut is sound."""
    return array("I", map(ord, text))


def like(*specials: Special) -> Encoder:
    return Encoder("letters", letters, NONE, NONE, specials)


def cut_by(encoder: Encoder, template: str = CHATML) -> list[bytes]:
    return find_cuts(encoder, ChatTemplate(template), "m")(b"a<|im_start|>b<|im_end|>c<|im_start|>")


def test_pieces_begin_with_the_token_and_make_up_the_text() -> None:
    assert Cutter("<s>")(b"a<s>b<s><s>c") == [b"a", b"<s>b", b"<s>", b"<s>c"]
    assert Cutter("<s>")(b"<s>b") == [b"<s>b"]
    assert Cutter("<s>")(b"") == [b""]
    assert Cutter(None)(b"a<s>b") == [b"a<s>b"]


def test_chats_are_cut_where_turns_begin(encoder: Encoder) -> None:
    assert cut_by(encoder) == [b"a", b"<|im_start|>b<|im_end|>c", b"<|im_start|>"]


@pytest.mark.parametrize(
    "specials",
    [
        (),
        (Special("<|im_start|>", False),),  # swallows blanks before it
        (START, Special("x<|im_start|>", True)),
        (START, Special("<|im", True)),
        (START, Special("t|>\n", False)),
        (START, Special("\n<|im_st", False)),
    ],
)
def test_a_token_that_others_may_overlap_is_no_place_to_cut(specials: tuple[Special, ...]) -> None:
    assert len(cut_by(like(*specials))) == 1
    assert len(cut_by(like(START, END))) == 3


def test_a_template_without_special_tokens_is_not_cut() -> None:
    assert len(cut_by(like(START), "{% for m in messages %}{{ m.content }}\n{% endfor %}")) == 1


def test_a_template_that_refuses_what_is_tried_is_not_cut() -> None:
    assert len(cut_by(like(START), "{{ raise_exception('no') }}")) == 1


def test_a_tokenizer_that_looks_across_the_token_is_not_cut_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    across = Encoder("across", lambda text: array("I", [len(text)]), NONE, NONE, (START,))
    assert len(cut_by(across)) == 1
    assert "chats are encoded whole" in caplog.text
