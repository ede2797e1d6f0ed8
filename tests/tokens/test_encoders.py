"""Rules of tokens/encoders.py: the fastest library is used where it is right."""

from __future__ import annotations

import json
import logging
from array import array
from pathlib import Path

import pytest

from llmgate.tokens import TokenizerError, load_tokenizer
from llmgate.tokens import encoders as encoders_module
from llmgate.tokens import load as load_module
from llmgate.tokens.encoders import Encoder, agree, open_encoder
from llmgate.tokens.probes import PROBES, between

EMBEDDED = Path(load_module.__file__).parent / "embedded" / "tokenizer.json"
WORDPIECE = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    | {"lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    | {"max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "one": 1, "two": 2}},
}


@pytest.fixture(scope="module")
def embedded() -> Encoder:
    return open_encoder(EMBEDDED.read_text("utf-8"), "m")


def test_fastokens_is_used_where_it_agrees(embedded: Encoder) -> None:
    assert embedded.library == "fastokens"


def test_it_agrees_on_every_probe_with_tokenizers(embedded: Encoder) -> None:
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(EMBEDDED))
    for text in (*PROBES, *between([special.text for special in embedded.specials])):
        assert list(embedded.encode(text)) == reference.encode(text, add_special_tokens=False).ids


def test_a_kind_that_fastokens_refuses_is_left_to_tokenizers_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "llmgate.tokens"):
        encoder = open_encoder(json.dumps(WORDPIECE), "m")
    assert encoder.library == "tokenizers"
    assert list(encoder.encode("one two three")) == [1, 2, 0]
    assert [record.message for record in caplog.records if "tokenizers is used" in record.message]


def test_ids_that_differ_are_one_warning_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_fastokens = encoders_module._with_fastokens

    def wrong(content: str, reference: Encoder) -> Encoder:
        right = with_fastokens(content, reference)
        strange = PROBES[4]
        return Encoder("fastokens", lambda text: right.encode(text)[text == strange :], right.before, right.after)

    monkeypatch.setattr(encoders_module, "_with_fastokens", wrong)
    assert open_encoder(EMBEDDED.read_text("utf-8"), "m").library == "tokenizers"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "fastokens gives other ids" in caplog.text


def test_agreement_is_tried_around_special_tokens_too(embedded: Encoder) -> None:
    token = embedded.specials[0].text

    def off(text: str) -> array[int]:
        return embedded.encode(text)[1:] if text.endswith(f"{token}\n") else embedded.encode(text)

    assert agree(embedded.encode, embedded.encode, embedded.specials)
    assert not agree(off, embedded.encode, embedded.specials)


@pytest.mark.parametrize(("before", "after"), [([1], []), ([1], [2]), ([], [2]), ([], [])])
def test_what_a_tokenizer_adds_goes_around_a_plain_prompt_only(
    tmp_path: Path, before: list[int], after: list[int]
) -> None:
    content = json.loads(EMBEDDED.read_text("utf-8"))
    names = {1: "<|im_start|>", 2: "<|im_end|>"}
    around = [[{"SpecialToken": {"id": names[token], "type_id": 0}} for token in tokens] for tokens in (before, after)]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*around[0], {"Sequence": {"id": "A", "type_id": 0}}, *around[1]],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]} for token, name in names.items()},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    counter = load_tokenizer(str(tmp_path))
    bare = list(counter.encode("one two"))
    assert list(counter.text_ids("one two")) == [*before, *bare, *after]
    assert list(counter.chat_ids([{"role": "user", "content": "one two"}])) == bare


def test_transformers_makes_of_a_named_class_what_engines_that_use_it_make() -> None:
    ours, theirs = load_tokenizer("embedded"), load_tokenizer("transformers:embedded")
    assert theirs.library == "fastokens"  # runs what transformers made
    # SmolLM2 names GPT-2's class, which transformers 5 gives that one's own rule for blanks before a digit
    assert len(ours.encode("a\n\n2")) == len(theirs.encode("a\n\n2")) - 1
    chat = [{"role": "user", "content": "hi"}]
    assert ours.chat_ids(chat) == theirs.chat_ids(chat)


def test_what_is_no_tokenizer_is_an_error_with_its_name() -> None:
    with pytest.raises(TokenizerError, match="m is not a tokenizer"):
        open_encoder(EMBEDDED.read_text("utf-8")[:1000], "m")
