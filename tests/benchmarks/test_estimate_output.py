from __future__ import annotations

import random

from benchmarks.estimate.output import Pair, judge


def test_where_the_size_of_a_prompt_tells_the_answers_length_the_predictor_is_better_than_a_mean() -> None:
    rng = random.Random(1)
    pairs: list[Pair] = [rng.choice([(50, rng.randint(700, 900)), (5000, rng.randint(10, 30))]) for _ in range(2000)]
    found, within = judge(iter(pairs))
    assert found["predictor"].absolute < found["plain mean"].absolute / 4
    assert found["predictor"].judged == 1800
    assert 0.4 < within[0.5] < 0.6
    assert 0.8 < within[0.9] < 1.0
