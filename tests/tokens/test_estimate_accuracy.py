"""The estimator of core/estimate.py against exact counts, on the prompts that benchmarks/estimate/ uses."""

import random
import statistics

import pytest

from benchmarks.estimate.corpus import Sample, build
from benchmarks.estimate.run import errors
from llmgate.core.estimate import PromptEstimator, byte_classes
from llmgate.tokens import load_tokenizer


@pytest.fixture(scope="module")
def kinds() -> dict[str, list[Sample]]:
    return build(load_tokenizer("embedded"), count=300)


@pytest.mark.parametrize("kind", ["miniswe", "gsm8k", "sonnet", "chinese", "code", "turns", "mix"])
def test_after_200_answers_the_median_error_is_at_most_5_percent(kinds: dict[str, list[Sample]], kind: str) -> None:
    found = errors(kinds[kind])
    assert statistics.median(found[0]) < 0.1
    assert statistics.median(found[200]) <= 0.05


def test_what_was_learnt_on_a_mix_serves_each_kind(kinds: dict[str, list[Sample]]) -> None:
    estimator = PromptEstimator()
    for sample in kinds["mix"]:
        estimator.learn(byte_classes(sample.raw), sample.tokens)
    for kind in ("miniswe", "gsm8k", "sonnet", "chinese", "code", "turns"):
        off = [abs(estimator.estimate(byte_classes(raw)) / tokens - 1) for raw, tokens in kinds[kind]]
        assert statistics.median(off) <= 0.08, kind


def test_a_tokenizer_with_other_costs_is_learnt(kinds: dict[str, list[Sample]]) -> None:
    # one that needs half as many tokens for everything and has a template of 200
    samples = [Sample(raw, 200 + tokens // 2) for raw, tokens in kinds["mix"]]
    random.Random(1).shuffle(samples)
    assert statistics.median(errors(samples)[200]) <= 0.05
