from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.beginnings import KnownBeginnings
from llmgate.core.estimate import ByteClasses, PromptEstimator, byte_classes
from llmgate.core.prefix import block_end
from llmgate.wire.prefix_keys import prefix_keys

WORDS = ["the", "quick", "Brown", "fox", "jumps", "over", "13", "lazy", "dogs,", "again", "été", "and", "again.\n"]


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def chat(*turns: str) -> bytes:
    return json.dumps([{"role": "user", "content": turn} for turn in turns], ensure_ascii=False).encode()


def tokens(classes: ByteClasses) -> int:
    return PromptEstimator().estimate(classes)


def shared_blocks(one: bytes, other: bytes) -> int:
    pairs = zip(prefix_keys("m", one), prefix_keys("m", other), strict=False)
    return sum(a == b for a, b in pairs)


@pytest.mark.parametrize("question", [5, 60, 2000])
def test_a_prompt_that_begins_like_others_is_counted_as_the_whole_would_be(question: int) -> None:
    known = KnownBeginnings()
    system = text(300, seed=1)
    for number in range(5):
        prompt = chat(system, text(question, seed=number + 2))
        shared = 6 if number else 0
        found = known.classify(prompt, prefix_keys("m", prompt), shared)
        assert found.total == pytest.approx(len(prompt))
        assert tokens(found) == pytest.approx(tokens(byte_classes(prompt)), rel=0.05)
    assert len(known) == 1


def test_a_growing_conversation_is_counted_turn_by_turn() -> None:
    known = KnownBeginnings()
    turns: list[str] = []
    before = b""
    for number in range(12):
        turns += [text(250, seed=number)]
        prompt = chat(*turns)
        found = known.classify(prompt, prefix_keys("m", prompt), shared_blocks(before, prompt))
        whole = sum(tokens(byte_classes(json.dumps(turn, ensure_ascii=False).encode())) for turn in turns)
        assert tokens(found) == pytest.approx(whole + 18 * len(turns), rel=0.15)
        before = prompt


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 11), st.integers(0, 11))
def test_pieces_add_up_to_the_whole_where_nothing_is_sampled(prompt: bytes, first: int, second: int) -> None:
    keys = prefix_keys("m", prompt)
    known = KnownBeginnings()
    for shared in sorted({min(first, len(keys)), min(second, len(keys))}):
        found = known.classify(prompt, keys, shared)
        assert found.total == pytest.approx(len(prompt))
        end = block_end(shared)
        if end and (len(prompt) - end) * 8 >= end and not found.token_ids:
            whole = byte_classes(prompt)
            # runs, characters and escapes that a border cuts may be counted on both sides
            assert found.digits == pytest.approx(whole.digits, abs=8) or b"\\u" in prompt
            assert abs(found.words - whole.words) <= 8 or b"\\u" in prompt


def test_token_ids_and_images_are_told_from_text_in_every_piece() -> None:
    known = KnownBeginnings()
    ids = json.dumps(list(range(10_000, 14_000))).encode()
    for shared in (0, 4, 8):
        assert known.classify(ids, prefix_keys("m", ids), shared) == byte_classes(ids)
    picture = "data:image/png;base64," + base64.b64encode(random.Random(0).randbytes(60_000)).decode()
    prompt = json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}]).encode()
    for shared in (0, 16, 30):
        found = known.classify(prompt, prefix_keys("m", prompt), shared)
        assert tokens(found) < 4000, "as text it would be 40,000"


def test_what_is_remembered_is_bounded() -> None:
    known = KnownBeginnings(capacity=10)
    for number in range(100):
        prompt = chat(text(200, seed=number))
        known.classify(prompt, prefix_keys("m", prompt), 3)
        assert len(known) <= 10
