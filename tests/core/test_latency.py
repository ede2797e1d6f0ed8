from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.core.latency import ALIKE, ATTENTION, CONTEXT, Line, Speed, decode_load, prefill_work

POSITIVE = st.floats(1e-6, 1e3)
ANYTHING = st.floats() | st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e300, 1e-300])
NONSENSE = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e9, 1e300]


@given(POSITIVE, POSITIVE, st.lists(st.tuples(ANYTHING, ANYTHING, st.floats(0, 1e6))))
def test_whatever_is_observed_times_stay_positive_and_finite(
    fixed: float, slope: float, observed: list[tuple[float, float, float]]
) -> None:
    line = Line(fixed, slope)
    speed, now = Speed(line), 0.0
    for x, seconds, later in observed:
        now += later
        speed.learn(x, seconds, now)
        line.learn(x, seconds, now)
        for value in (line.fixed, line.slope, line(1e5), speed(1e5), speed.factor, speed.factor_at(now + later)):
            assert 0.0 < value < math.inf


@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_line_is_found_from_a_prior_that_is_wrong_by_up_to_ten(fixed: float, slope: float, seed: int) -> None:
    line, random = Line(0.006 * fixed, 0.00035 * slope), Random(seed)
    for number in range(1500):
        x = random.choice([1.0, 4.0, 16.0, 64.0, 128.0])
        line.learn(x, 0.006 + 0.00035 * x, 0.2 * number)
    for x in (1.0, 16.0, 128.0):
        assert line(x) == pytest.approx(0.006 + 0.00035 * x, rel=0.05)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_what_engines_do_besides_averages_out(seed: int) -> None:
    line, random = Line(0.006, 0.00035), Random(seed)
    for number in range(3000):
        x = random.uniform(1.0, 128.0)
        line.learn(x, (0.012 + 0.0002 * x) * random.uniform(0.7, 1.3), 0.2 * number)
    for x in (8.0, 64.0, 128.0):
        assert line(x) == pytest.approx(0.012 + 0.0002 * x, rel=0.1)


@pytest.mark.parametrize("seconds", NONSENSE)
@pytest.mark.parametrize("make", [lambda: Line(1.0, 0.1), lambda: Speed(Line(1.0, 0.1))])
def test_seconds_that_make_no_sense_change_nothing(make: Callable[[], Line | Speed], seconds: float) -> None:
    seen, twin = make(), make()
    for each in (seen, twin):
        each.learn(10.0, 3.0, 1.0)
    seen.learn(10.0, seconds, 2.0)
    for each in (seen, twin):
        each.learn(10.0, 3.0, 3.0)
    assert seen(10.0) == twin(10.0)


@pytest.mark.parametrize("x", [x for x in NONSENSE if x != 0.0])
def test_work_that_makes_no_sense_changes_nothing(x: float) -> None:
    line = Line(1.0, 0.1)
    line.learn(x, 3.0, 1.0)
    assert (line.fixed, line.slope) == (1.0, 0.1)


def test_one_observation_that_is_far_out_moves_little() -> None:
    line = Line(0.001, 0.001)
    for number in range(200):
        line.learn(100.0, 0.101, float(number))
    line.learn(100.0, 1000.0, 200.0)
    assert line(100.0) < 1.15 * 0.101


@pytest.mark.parametrize("per_second", [1, 20])
@pytest.mark.parametrize("change", [2.0, 0.5])
def test_an_engine_that_changes_its_speed_is_followed_within_30_seconds(per_second: int, change: float) -> None:
    speed, now = Speed(Line(0.006, 0.00035)), 0.0
    random = Random(1)

    def observe(seconds: float, times: float) -> None:
        nonlocal now
        for _ in range(int(seconds * per_second)):
            now += 1.0 / per_second
            x = random.uniform(1.0, 64.0)
            speed.learn(x, times * (0.006 + 0.00035 * x), now)

    observe(120.0, 1.0)
    observe(30.0, change)
    right = change * (0.006 + 0.00035 * 32.0)
    assert right / ALIKE * 0.85 < speed(32.0) < right * ALIKE / 0.85
    observe(30.0, 1.0)
    assert speed(32.0) == pytest.approx(right / change, rel=0.2)


def test_one_slow_engine_does_not_make_those_like_it_slow() -> None:
    line = Line(0.01, 0.0001)
    good, slow = [Speed(line) for _ in range(3)], Speed(line)
    for number in range(600):
        for each in good:
            each.learn(1000.0, 0.11, 0.1 * number)
        slow.learn(1000.0, 0.33, 0.1 * number)
    assert all(0.08 < each(1000.0) < 0.14 for each in good)
    assert slow(1000.0) == pytest.approx(0.33 / ALIKE, rel=0.1)


def test_engines_that_differ_by_chance_are_taken_to_be_alike() -> None:
    line = Line(0.01, 0.0001)
    one, other = Speed(line), Speed(line)
    for number in range(600):
        one.learn(1000.0, 0.10, 0.1 * number)
        other.learn(1000.0, 0.12, 0.1 * number)
    assert ALIKE > 0.12 / 0.10
    assert one.factor == other.factor == 1.0


def test_an_engine_that_is_not_observed_is_as_its_like_are_after_five_minutes() -> None:
    speed = Speed(Line(0.01, 0.0001))
    for number in range(60):
        speed.learn(1000.0, 1.1, float(number))
    slow = speed.factor_at(59.0)
    assert slow == speed.factor > 1.5
    assert 1.0 < speed.factor_at(59.0 + 150.0) < slow
    assert speed.factor_at(59.0 + 300.0) == speed.factor_at(1e9) == pytest.approx(1.0)


def test_a_clock_that_stands_still_is_no_trouble() -> None:
    speed = Speed(Line(0.01, 0.0001))
    for _ in range(100):
        speed.learn(1000.0, 0.22, 5.0)
    assert 0.15 < speed(1000.0) < 0.25


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_work_is_at_least_its_tokens_and_that_of_parts_is_that_of_the_whole(first: float, then: float) -> None:
    whole = prefill_work(first + then, first + then)
    assert whole >= first + then
    assert prefill_work(first, first) + prefill_work(then, first + then) == pytest.approx(whole)


def test_attention_and_context_have_the_units_that_are_documented() -> None:
    assert prefill_work(25_000, 25_000) == pytest.approx(25_000 * (1 + ATTENTION * 12_500)) == pytest.approx(37_500)
    assert decode_load(10, 4000) == 10 + CONTEXT * 4000
