"""Rules of core/estimate.py. Accuracy on real prompts is judged in tests/tokens/test_estimate_accuracy.py."""

import base64
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.estimate import SAMPLE_BYTES, ByteClasses, PromptEstimator, byte_classes

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "13", "lazy", "dogs,", "again", "and", "again.\n"]


def chat(text: str, **options: Any) -> bytes:
    return json.dumps([{"role": "user", "content": text}], **options).encode()


def prose(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


finite_counts = st.floats(0, 1e9)
any_classes = st.builds(
    ByteClasses,
    total=st.integers(0, 10**9),
    letters=finite_counts,
    words=finite_counts,
    upper=finite_counts,
    digits=finite_counts,
    punct=finite_counts,
    punct_runs=finite_counts,
    wide2=finite_counts,
    wide3=finite_counts,
    messages=finite_counts,
    opaque=st.just(0.0),
    token_ids=st.just(0),
)
any_usage = st.one_of(st.integers(), st.sampled_from([0, -1, 1, 2**31, 10**30]), st.integers(1, 200_000))


def test_each_class_is_counted_by_itself() -> None:
    found = byte_classes("ab CD1 2.. é中—".encode())
    assert found == ByteClasses(
        total=19, letters=4, words=2, upper=2, digits=2, punct=3, punct_runs=2, wide2=1, wide3=1, messages=0
    )


def test_an_emoji_counts_as_both_wide_classes() -> None:
    found = byte_classes("😀".encode())
    assert (found.wide2, found.wide3, found.punct) == (1, 1, 0)


def test_messages_are_counted_by_their_role_key() -> None:
    assert byte_classes(b'[{"role":"system","content":""},{"role":"user","content":""}]').messages == 2


@pytest.mark.parametrize("text", ["请解释一下什么是负载均衡。" * 9, "Привет, как дела?" * 5, "naïve café déjà vu"])
def test_escaped_text_is_counted_as_the_characters_it_stands_for(text: str) -> None:
    escaped, raw = byte_classes(chat(text)), byte_classes(chat(text, ensure_ascii=False))
    assert escaped[1:] == raw[1:]


def test_an_escaped_backslash_before_a_u_is_no_escape() -> None:
    assert byte_classes(chat(r"C:\users\ubuntu" * 20)).wide3 == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_classified(data: bytes) -> None:
    found = byte_classes(data)
    assert found.total == len(data)
    if not found.token_ids:
        text = found.letters + found.digits + found.punct
        assert 0 <= text <= len(data)
        assert 0 <= found.words <= found.letters
        assert 0 <= found.punct_runs <= found.punct


@given(st.binary(min_size=1, max_size=64), st.integers(SAMPLE_BYTES // 64, 20_000))
def test_any_long_bytes_are_classified_within_their_length(piece: bytes, times: int) -> None:
    data = piece * (times // len(piece) * 64 // 8)
    found = byte_classes(data)
    assert found.token_ids or found.letters + found.digits + found.punct <= 1.01 * len(data)


@pytest.mark.parametrize("size", [SAMPLE_BYTES + 1, 10_000, 200_000])
@pytest.mark.parametrize("escaped", [False, True])
def test_a_sampled_count_is_close_to_the_full_one(size: int, escaped: bool) -> None:
    rng = random.Random(size)
    lines = [prose(12, seed) for seed in range(8)] + ["请解释一下什么是负载均衡。\n", "Привет! Как дела?\n"]
    pieces = [json.dumps(rng.choice(lines), ensure_ascii=escaped).encode().strip(b'"') for _ in range(size // 60)]
    sampled = byte_classes(b"".join(pieces))
    columns = zip(*(byte_classes(piece) for piece in pieces), strict=True)
    full = dict(zip(ByteClasses._fields, map(sum, columns), strict=True))
    estimator = PromptEstimator()
    assert estimator.estimate(sampled) == pytest.approx(estimator.estimate(ByteClasses(**full)), rel=0.1)


def test_an_array_of_token_ids_needs_no_estimate() -> None:
    assert PromptEstimator().estimate(byte_classes(b"[ 15339, 1917, 0]")) == 3
    assert PromptEstimator().estimate(byte_classes(b"[[1,2],[3,4,5]]")) == 5
    many = json.dumps(list(range(10_000, 30_000))).encode()
    assert PromptEstimator().estimate(byte_classes(many)) == pytest.approx(20_000, rel=0.02)


def test_an_image_in_the_prompt_is_not_taken_for_text() -> None:
    image = base64.b64encode(random.Random(0).randbytes(300_000)).decode()
    url = {"url": "data:image/png;base64," + image}
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": url}]
    found = byte_classes(json.dumps([{"role": "user", "content": parts}]).encode())
    assert found.opaque > 0.9 * found.total
    estimator = PromptEstimator()
    assert estimator.estimate(found) < 0.05 * found.total
    estimator.learn(found, 1500)
    assert estimator.samples == 0


def test_base64_that_no_image_announces_is_text() -> None:
    found = byte_classes(chat(base64.b64encode(random.Random(0).randbytes(30_000)).decode()))
    assert found.opaque == 0


@given(any_classes)
def test_an_estimate_is_at_least_one(classes: ByteClasses) -> None:
    assert PromptEstimator().estimate(classes) >= 1


@given(st.lists(st.tuples(any_classes, any_usage), max_size=30), any_classes)
def test_no_usage_makes_the_estimate_absurd(history: list[tuple[ByteClasses, int]], classes: ByteClasses) -> None:
    fresh = PromptEstimator().estimate(classes)
    estimator = PromptEstimator()
    for seen, usage in history:
        estimator.learn(seen, usage)
        assert all(map(math.isfinite, estimator._coefficients))
        assert all(math.isfinite(cell) for row in estimator._covariance for cell in row)
    assert max(1, fresh / 8 - 1) <= estimator.estimate(classes) <= 8 * fresh + 4096 + 8


@given(st.lists(st.tuples(st.integers(1, 3000), any_usage), max_size=30), st.integers(0, 2000), st.integers(0, 2000))
def test_more_text_never_costs_less_whatever_was_learnt(history: list[tuple[int, int]], short: int, extra: int) -> None:
    estimator = PromptEstimator()
    for words, usage in history:
        estimator.learn(byte_classes(chat(prose(words))), usage)
    classes = byte_classes(chat(prose(short)))
    longer = classes._replace(**{f: getattr(classes, f) + extra for f in ByteClasses._fields[1:9]})
    assert estimator.estimate(longer) >= estimator.estimate(classes)


@pytest.mark.parametrize("usage", [0, -5, 10**12, 2**70])
def test_impossible_usage_is_ignored(usage: int) -> None:
    estimator = PromptEstimator()
    estimator.learn(byte_classes(chat(prose(100))), usage)
    assert estimator.samples == 0


def test_wrong_usage_now_and_then_spoils_little() -> None:
    rng = random.Random(5)
    estimator = PromptEstimator()
    for step in range(300):
        classes = byte_classes(chat(prose(rng.randint(20, 2000), step)))
        true = 10 + 1.4 * classes.words + classes.punct / 2
        estimator.learn(classes, round(true * 12 if step % 10 == 9 else true))
    off = []
    for step in range(300, 400):
        classes = byte_classes(chat(prose(rng.randint(20, 2000), step)))
        true = 10 + 1.4 * classes.words + classes.punct / 2
        off.append(abs(estimator.estimate(classes) / true - 1))
    assert sorted(off)[50] < 0.06


def test_another_tokenizer_is_learnt() -> None:
    rng = random.Random(7)
    estimator = PromptEstimator()

    def half_as_many() -> tuple[ByteClasses, int]:
        classes = byte_classes(
            chat("负载均衡器。" * rng.randint(5, 400) + prose(rng.randint(5, 400), rng.randrange(99)))
        )
        return classes, round(150 + 0.6 * classes.wide3 + 1.3 * classes.words + classes.digits / 3)

    for _ in range(200):
        estimator.learn(*half_as_many())
    off = [abs(estimator.estimate(classes) / true - 1) for classes, true in (half_as_many() for _ in range(50))]
    assert sorted(off)[25] < 0.05


def test_a_plain_prompt_has_no_chat_template() -> None:
    estimator = PromptEstimator()
    assert estimator.estimate(byte_classes(b'"Hi"')) < 5
    assert estimator.estimate(byte_classes(chat("Hi"))) > 20
