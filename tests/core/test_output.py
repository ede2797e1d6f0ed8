"""Rules of core/output.py."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.output import DEFAULT, LONGEST, MEMORY, TENANTS, OutputPredictor

any_usage = st.one_of(st.integers(-5, 5), st.integers(0, 10_000), st.integers(-(10**12), 10**12))
any_limit = st.one_of(st.none(), st.integers(-5, 5), st.integers(1, 10**6))


def taught(*lengths: int, times: int = 1) -> OutputPredictor:
    predictor = OutputPredictor()
    for _ in range(times):
        for length in lengths:
            predictor.learn(length)
    return predictor


def test_before_any_answer_1024_tokens_are_expected() -> None:
    predictor = OutputPredictor()
    assert predictor.expect() == pytest.approx(DEFAULT)
    assert predictor.expect(16) == pytest.approx(16, rel=0.02)
    assert predictor.remaining(500) == pytest.approx(DEFAULT, rel=0.02)  # an exponential distribution has no memory


def test_the_expectation_is_the_mean_of_the_answers() -> None:
    lengths = random.Random(1).choices(range(20, 900), k=MEMORY)
    assert taught(*lengths).expect() == pytest.approx(statistics.mean(lengths), rel=0.05)


def test_an_answer_of_one_length_is_expected_to_have_it() -> None:
    assert taught(200, times=100).expect() == pytest.approx(200, rel=0.02)


def test_a_limit_cuts_each_answer_and_not_the_mean() -> None:
    predictor = taught(100, 900, times=200)
    assert predictor.expect() == pytest.approx(500, rel=0.05)
    assert predictor.expect(400) == pytest.approx((100 + 400) / 2, rel=0.05)


def test_the_expectation_follows_a_change_of_traffic() -> None:
    predictor = taught(200, times=500)
    for _ in range(24 * MEMORY):  # of which one in eight is learnt from
        predictor.learn(600)
    assert predictor.expect() == pytest.approx(600, rel=0.05)


def test_one_absurd_answer_moves_the_expectation_little() -> None:
    predictor = taught(100, times=64)
    predictor.learn(10**9)
    assert predictor.expect() < 125


def test_long_answers_that_are_no_mistake_are_learnt() -> None:
    assert taught(*[10] * 9, 8000, times=50).expect() == pytest.approx(809, rel=0.1)


def test_quantiles_are_those_of_the_answers() -> None:
    rng = random.Random(2)
    lengths = [max(1, int(rng.lognormvariate(5, 1))) for _ in range(4 * MEMORY)]
    predictor = taught(*lengths)
    for share in (0.1, 0.5, 0.9):
        below = sum(length <= predictor.quantile(share) for length in lengths[-2 * MEMORY :]) / (2 * MEMORY)
        assert below == pytest.approx(share, abs=0.05)
    assert predictor.quantile(0.9, 50) == 50


def test_an_answer_that_outlived_the_short_ones_is_expected_to_be_a_long_one() -> None:
    predictor = taught(50, 2000, times=200)
    assert predictor.remaining(10) == pytest.approx(1015, rel=0.05)
    assert predictor.remaining(100) == pytest.approx(1900, rel=0.05)
    assert predictor.remaining(100, 500) == pytest.approx(400, rel=0.05)
    assert predictor.remaining(500, 500) == 0.0


def test_beyond_all_that_was_heard_of_the_first_guess_holds() -> None:
    assert taught(50, times=100).remaining(60_000) == DEFAULT


def test_prompts_of_one_size_have_their_own_answers() -> None:
    predictor = OutputPredictor()
    for _ in range(100):
        predictor.learn(20, prompt_tokens=4000)
        predictor.learn(800, prompt_tokens=100)
    assert predictor.expect(prompt_tokens=3000) < 120
    assert predictor.expect(prompt_tokens=70) > 700
    assert predictor.expect(prompt_tokens=10) == pytest.approx(410, rel=0.05)  # never seen: as all of the model's


def test_prompts_within_a_factor_of_two_are_of_one_size() -> None:
    predictor = OutputPredictor()
    for _ in range(100):
        predictor.learn(20, prompt_tokens=64)
        predictor.learn(800, prompt_tokens=128)
    assert predictor.expect(prompt_tokens=127) == predictor.expect(prompt_tokens=64)
    assert predictor.expect(prompt_tokens=128) > 10 * predictor.expect(prompt_tokens=127)


def test_a_tenant_has_its_own_answers_once_there_are_enough() -> None:
    predictor = OutputPredictor()
    for _ in range(200):
        predictor.learn(100, 50)
    predictor.learn(1000, 50, "a")
    first = predictor.expect(None, 50, "a")
    assert 100 < first < 500
    for _ in range(50):
        predictor.learn(1000, 50, "a")
    assert predictor.expect(None, 50, "a") > 800
    assert predictor.expect(None, 50, "b") < predictor.expect(None, 50, "a")
    # of another size: as the tenant's
    assert predictor.expect(None, 5000, "a") > 800


def test_tenants_that_were_not_heard_of_for_longest_are_forgotten() -> None:
    predictor = OutputPredictor()
    for number in range(TENANTS):
        predictor.learn(10, 0, number)
    predictor.learn(10, 0, 0)
    for number in range(TENANTS - 1):
        predictor.learn(10, 0, -1 - number)
    assert len(predictor) == TENANTS
    for _ in range(200):
        predictor.learn(5000)
    assert predictor.expect(None, 0, 1) == predictor.expect(None, 0, None)
    assert predictor.expect(None, 0, 0) < predictor.expect(None, 0, None)


def test_years_of_answers_keep_it_exact() -> None:
    predictor = taught(300, times=40 * MEMORY)  # its weights would have overflowed 10^17
    assert predictor.expect() == pytest.approx(300, rel=0.02)


@given(
    st.lists(st.tuples(any_usage, st.integers(0, 10**6), st.one_of(st.none(), st.integers(0, 3))), max_size=60),
    any_limit,
    st.integers(0, 10**6),
    st.integers(0, 200_000),
)
def test_everything_keeps_its_bounds_whatever_was_learnt(
    answers: list[tuple[int, int, int | None]], limit: int | None, prompt: int, produced: int
) -> None:
    predictor = OutputPredictor()
    for tokens, prompt_tokens, tenant in answers:
        predictor.learn(tokens, prompt_tokens, tenant)
    most = LONGEST if limit is None or limit < 1 else limit
    for tenant in (None, 0, 99):
        assert 1 <= predictor.expect(limit, prompt, tenant) <= max(1, most) * (1 + 1e-9)
        quantiles = [predictor.quantile(share, limit, prompt, tenant) for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
        assert quantiles == sorted(quantiles)
        assert quantiles[0] >= 1
        assert quantiles[-1] <= most * (1 + 1e-9)
        left = predictor.remaining(produced, limit, prompt, tenant)
        assert 0 <= left <= max(0, (LONGEST if limit is None else limit) - produced) * (1 + 1e-9)
