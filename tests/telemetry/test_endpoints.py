from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from llmgate.core.ledger import Ledger
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointMetrics, TerminationCause, Verdict
from llmgate.telemetry.endpoints import EndpointCollector
from tests.core import make


def value(pool: EndpointPool, gauge: str, *, now: float = 0.0, endpoint: str = "e0") -> float | None:
    registry = CollectorRegistry()
    registry.register(EndpointCollector(pool, lambda: now))
    return registry.get_sample_value(f"llmgate_endpoint_{gauge}", {"endpoint": endpoint})


def test_up_follows_health_and_draining_is_told_apart_from_it() -> None:
    pool = make.pool(1, up=False)
    (endpoint,) = pool
    assert value(pool, "up") == 0
    endpoint.health.probe_passed()
    pool.set_draining(endpoint, True)
    assert value(pool, "up") == 1
    assert value(pool, "draining") == 1
    endpoint.health.request_ended(Verdict.UNREACHABLE, 0.0, trial=0)
    assert value(pool, "up") == 0


def test_work_in_flight_is_what_the_ledger_has_booked_at_the_moment_of_the_scrape() -> None:
    pool, ledger = make.pool(1), Ledger()
    (endpoint,) = pool
    charge = ledger.book(make.request(100, 50), endpoint, 0.0)
    assert (value(pool, "inflight_requests"), value(pool, "inflight_tokens")) == (1, 150)
    charge.prefill_done()
    assert value(pool, "inflight_tokens") == 50
    ledger.settle(charge, TerminationCause.COMPLETED)
    assert (value(pool, "inflight_requests"), value(pool, "inflight_tokens")) == (0, 0)


def test_a_fresh_reading_is_shown_with_its_age() -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = EndpointMetrics(at=100.0, waiting=0, kv_usage=0.25)
    assert value(pool, "waiting_requests", now=101.5) == 0
    assert value(pool, "kv_cache_usage_ratio", now=101.5) == 0.25
    assert value(pool, "metrics_age_seconds", now=101.5) == 1.5


@pytest.mark.parametrize("gauge", ["waiting_requests", "kv_cache_usage_ratio"])
@pytest.mark.parametrize(
    "reading", [None, EndpointMetrics(at=100.0), EndpointMetrics(at=50.0, waiting=3, kv_usage=0.5)]
)
def test_what_is_unknown_or_stale_is_absent_and_never_zero(gauge: str, reading: EndpointMetrics | None) -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = reading
    assert value(pool, gauge, now=100.0) is None


def test_a_stale_reading_still_shows_its_age_and_no_reading_none() -> None:
    pool = make.pool(2)
    next(iter(pool)).metrics = EndpointMetrics(at=50.0, waiting=3)
    assert value(pool, "metrics_age_seconds", now=100.0) == 50
    assert value(pool, "metrics_age_seconds", now=100.0, endpoint="e1") is None


def test_a_removed_endpoint_is_gone_at_the_next_scrape() -> None:
    pool = make.pool(2)
    pool.remove("e0")
    assert value(pool, "up") is None
    assert value(pool, "up", endpoint="e1") == 1
