"""Load over time."""

from __future__ import annotations

import math

import pytest

from llmgate.engines.engine import Engine
from llmgate.sim.flight import Host
from llmgate.sim.series import POINTS, Sampler
from tests.core.make import endpoint
from tests.sim.make import PROFILE


def host(number: int) -> Host:
    return Host(number, endpoint(slot=number), Engine(PROFILE))


def test_a_series_stays_short_and_keeps_its_mean() -> None:
    sampler, one = Sampler(), host(0)
    for second in range(10 * POINTS + 7):
        one.endpoint.load.requests = second % 10
        sampler.sample([one], float(second))
    series = sampler.series(one)
    assert POINTS // 2 <= len(series.at) <= POINTS
    assert float(series.in_flight.mean()) == pytest.approx(4.5, rel=0.01)
    assert list(series.at) == sorted(series.at)


def test_imbalance_is_zero_when_all_are_alike_and_grows_with_the_spread() -> None:
    even, uneven = Sampler(), Sampler()
    hosts = [host(n) for n in range(4)]
    for each in hosts:
        each.endpoint.load.requests = 5
    even.sample(hosts, 0.0)
    assert even.imbalance == 0.0
    for each, load in zip(hosts, (20, 0, 0, 0), strict=True):
        each.endpoint.load.requests = load
    uneven.sample(hosts, 0.0)
    assert uneven.imbalance == pytest.approx(math.sqrt(3))


def test_an_engine_that_does_not_serve_is_no_imbalance() -> None:
    sampler, hosts = Sampler(), [host(0), host(1)]
    hosts[0].endpoint.load.requests = 5
    hosts[1].serves_from = math.inf
    sampler.sample(hosts, 0.0)
    assert sampler.imbalance == 0.0
