from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean, stdev

import pytest

from llmgate.bench.arrivals import arrival_times
from llmgate.workloads import TraceRequest


def requests(*ats: float) -> list[TraceRequest]:
    return [TraceRequest(at, 10, 10) for at in ats]


def test_a_traces_own_times_start_at_zero_and_are_scaled() -> None:
    assert arrival_times(requests(10, 12, 20), random.Random(0), rate_scale=2) == [0, 1, 5]


def test_what_waits_for_another_has_no_time_of_its_own() -> None:
    followed = [*requests(0), TraceRequest(3, 10, 10, after=0), *requests(4)]
    for rate in (None, 5.0):
        first, waiting, last = arrival_times(followed, random.Random(0), rate=rate)
        assert first == 0
        assert waiting is None
        assert last is not None


@pytest.mark.parametrize("burstiness", [1.0, 0.25, 4.0])
def test_gaps_have_the_mean_of_the_rate_and_the_variation_of_the_burstiness(burstiness: float) -> None:
    times = arrival_times(requests(*[0.0] * 20_001), random.Random(1), rate=5, burstiness=burstiness)
    gaps = [later - earlier for earlier, later in pairwise(time for time in times if time is not None)]
    assert fmean(gaps) == pytest.approx(1 / 5, rel=0.05)
    assert stdev(gaps) / fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


def test_equal_seeds_give_equal_times() -> None:
    once, again, other = (arrival_times(requests(0, 0, 0), random.Random(seed), rate=1) for seed in (1, 1, 2))
    assert once == again != other
