from __future__ import annotations

import pytest

from llmgate.core.types import EndpointMetrics, EndpointSpec, EngineCounts, Usage
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.rates import HISTORY, RATE_SECONDS, RATIO_SECONDS, Rates, quantile
from tests.core import make


class Fleet:
    """Two endpoints, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pool = make.pool(2)
        self.metrics = Metrics(self.pool, lambda: self.now)
        self.rates = Rates(self.pool, self.metrics, lambda: self.now)
        self.a, self.b = self.pool
        self.rates.sample()

    def ended(self, endpoint: str = "e0", status: int = 200, *, ttft: float = 0.15, usage: Usage | None = None) -> None:
        self.metrics.request_ended("m", endpoint, status, stream=True, duration=1, ttft=ttft, usage=usage)

    def passes(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += 1
            self.rates.sample()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_nothing_is_known_at_the_first_look(fleet: Fleet) -> None:
    assert fleet.rates.of(fleet.a) == fleet.rates.of_all() == (0, 0, 0, 0, None, None, None)


def test_rates_are_those_of_the_last_seconds_and_fade_when_nothing_comes(fleet: Fleet) -> None:
    for _ in range(RATE_SECONDS):
        fleet.ended(usage=Usage(100, 20))
        fleet.ended(usage=Usage(100, 20))
        fleet.passes()
    assert fleet.rates.of(fleet.a)[:4] == (2, 0, 200, 40)
    fleet.passes(RATE_SECONDS // 2)
    assert fleet.rates.of(fleet.a)[:4] == (1, 0, 100, 20)
    fleet.passes(RATE_SECONDS)
    assert fleet.rates.of(fleet.a)[:4] == (0, 0, 0, 0)


def test_a_late_look_is_no_higher_rate(fleet: Fleet) -> None:
    fleet.ended()
    fleet.ended()
    fleet.now += 4
    fleet.rates.sample()
    assert fleet.rates.of(fleet.a).requests == 0.5


def test_errors_are_5xx_and_what_broke_off(fleet: Fleet) -> None:
    for status in (200, 404, 429, 500, 503):
        fleet.ended(status=status)
    fleet.metrics.broken("m", "e0")
    fleet.passes()
    assert fleet.rates.of(fleet.a)[:2] == (5, 3)


def test_the_engines_own_token_counters_come_first_for_they_rise_with_each_token(fleet: Fleet) -> None:
    for second in range(3):
        counts = EngineCounts(prompt_tokens=1000 * second, completion_tokens=50 * second)
        fleet.a.metrics = EndpointMetrics(fleet.now + 1, counts=counts)
        fleet.ended(usage=Usage(7, 7))
        fleet.passes()
    assert fleet.rates.of(fleet.a)[2:4] == pytest.approx((7, 7))  # at the first look they were not known
    fleet.passes(RATE_SECONDS - 3)
    fleet.a.metrics = EndpointMetrics(fleet.now + 1, counts=EngineCounts(prompt_tokens=2000, completion_tokens=100))
    fleet.passes()
    assert fleet.rates.of(fleet.a)[2:4] == pytest.approx((200, 10))


def test_an_engine_that_was_started_again_does_not_run_backwards(fleet: Fleet) -> None:
    for tokens in (500, 3):
        fleet.a.metrics = EndpointMetrics(
            fleet.now + 1, counts=EngineCounts(prompt_tokens=tokens, completion_tokens=tokens)
        )
        fleet.passes()
    fleet.passes(RATE_SECONDS - 1)
    assert fleet.rates.of(fleet.a)[2:4] == (0, 0)


def test_percentiles_are_of_the_last_half_minute(fleet: Fleet) -> None:
    for _ in range(99):
        fleet.ended(ttft=0.15)
    fleet.ended(ttft=3)
    fleet.passes()
    recent = fleet.rates.of(fleet.a)
    assert recent.ttft_p50 is not None
    assert recent.ttft_p99 is not None
    assert 0.1 < recent.ttft_p50 < 0.2
    assert recent.ttft_p99 == pytest.approx(0.2)
    fleet.passes(RATIO_SECONDS)
    assert fleet.rates.of(fleet.a).ttft_p50 is None


def test_the_prefix_hit_ratio_is_of_those_that_tell(fleet: Fleet) -> None:
    fleet.ended("e0", usage=Usage(100, 1, cached_tokens=75))
    fleet.ended("e1", usage=Usage(100, 1))
    fleet.passes()
    assert fleet.rates.of(fleet.a).prefix_hit_ratio == 0.75
    assert fleet.rates.of(fleet.b).prefix_hit_ratio is None
    assert fleet.rates.of_all().prefix_hit_ratio == 0.75


def test_all_together_are_the_sum_and_the_percentiles_of_everything(fleet: Fleet) -> None:
    for endpoint, ttft in (("e0", 0.15), ("e0", 0.15), ("e1", 3.0)):
        fleet.ended(endpoint, ttft=ttft)
    fleet.passes()
    whole = fleet.rates.of_all()
    assert whole.requests == 3
    assert whole.ttft_p50 is not None
    assert whole.ttft_p50 < 0.2
    assert whole.ttft_p99 is not None
    assert whole.ttft_p99 > 2.5


def test_requests_that_reach_no_endpoint_are_counted_apart(fleet: Fleet) -> None:
    fleet.metrics.rejected("no_ready_endpoint")
    fleet.passes(2)
    assert fleet.rates.rejected == 0.5


def test_a_namesake_begins_without_history(fleet: Fleet) -> None:
    fleet.ended()
    fleet.passes(3)
    fleet.pool.remove("e0")
    fleet.metrics.forget("e0")
    new = fleet.pool.add(EndpointSpec("e0", "http://elsewhere", models={"m": "m"}))
    assert fleet.rates.of(new).requests == 0
    fleet.passes()
    assert len(fleet.rates.history()[1]["e0"]) == 1
    assert fleet.rates.of_all().requests == 0


def test_one_that_has_left_is_forgotten(fleet: Fleet) -> None:
    fleet.pool.remove("e0")
    fleet.passes()
    assert list(fleet.rates.history()[1]) == ["e1"]


def test_the_history_is_a_point_a_second_and_has_an_end(fleet: Fleet) -> None:
    fleet.passes(2)
    fleet.ended()
    fleet.passes()
    whole, by_endpoint = fleet.rates.history()
    assert [point.requests > 0 for point in whole] == [False, False, False, True]
    assert [point.requests for point in by_endpoint["e1"]] == [0, 0, 0, 0]
    fleet.passes(HISTORY)
    assert len(fleet.rates.history()[0]) == HISTORY


def test_a_fleet_of_nobody_has_rates_too() -> None:
    pool = make.pool(0)
    rates = Rates(pool, Metrics(pool, lambda: 0.0), lambda: 0.0)
    rates.sample()
    assert rates.of_all() == (0, 0, 0, 0, None, None, None)


@pytest.mark.parametrize(
    ("part", "counts", "value"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [0, 10, 0], 1.5),
        (0.99, [98, 2, 0], 1.5),
        (0.5, [1, 0, 9], 2.0),
        (1.0, [1, 1, 0], 2.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(part: float, counts: list[int], value: float | None) -> None:
    """The bounds are 1 and 2; what lies beyond the last one is taken for it."""
    assert quantile(part, (1, 2), counts) == (None if value is None else pytest.approx(value))
