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


FRAGMENTS = st.sampled_from(
    [b"one ", b"Two", b"33 ", b"...", b"\\n", "été ".encode(), "漢字".encode(), b" ", b'"role"']
)


@given(st.lists(FRAGMENTS, min_size=200, max_size=700), st.integers(0, 11), st.integers(0, 11))
def test_pieces_add_up_to_the_whole_where_nothing_is_sampled(fragments: list[bytes], first: int, second: int) -> None:
    prompt = b"".join(fragments)[:3000]
    keys = prefix_keys("m", prompt)
    known = KnownBeginnings()
    for shared in sorted({min(first, len(keys)), min(second, len(keys))}):
        found = known.classify(prompt, keys, shared)
        assert found.total == pytest.approx(len(prompt))
        if (len(prompt) - block_end(shared)) * 8 >= block_end(shared):
            whole = byte_classes(prompt)
            assert found.digits == pytest.approx(whole.digits)
            assert found.letters == pytest.approx(whole.letters)
            # a run, a character and a key that a border cuts are counted on both sides or on none
            assert abs(found.words - whole.words) <= 2
            assert abs(found.messages - whole.messages) <= 2


def test_text_after_an_image_counts() -> None:
    system = "You see what others do not. " * 110
    picture = "data:image/png;base64," + base64.b64encode(random.Random(0).randbytes(200_000)).decode()
    question = text(8000, seed=3)
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    prompt = json.dumps([{"role": "system", "content": system}, {"role": "user", "content": content}]).encode()
    keys = prefix_keys("m", prompt)
    known = KnownBeginnings()
    asked = tokens(byte_classes(json.dumps(question).encode()))
    for shared in (10, len(keys) - 50, len(keys) - 30):  # then the image, then some of the question has been seen
        assert tokens(known.classify(prompt, keys, shared)) > asked


def test_a_small_image_in_a_short_piece_is_no_text_and_teaches_nothing() -> None:
    system = "You see what others do not. " * 110
    picture = "data:image/png;base64," + base64.b64encode(random.Random(0).randbytes(1300)).decode()
    content = [{"type": "image_url", "image_url": {"url": picture}}]
    prompt = json.dumps([{"role": "system", "content": system}, {"role": "user", "content": content}]).encode()
    found = KnownBeginnings().classify(prompt, prefix_keys("m", prompt), 11)
    assert found.opaque > 1000
    assert tokens(found) < tokens(byte_classes(prompt)) + 200


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
