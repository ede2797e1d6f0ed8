from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgate.core.ledger import Ledger
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointMetrics, EndpointSpec, EngineCounts, TerminationCause, Verdict
from llmgate.telemetry.endpoints import MOST_MODELS, EndpointSeries
from llmgate.wire.engine_metrics import parse_metrics
from tests.core import make
from tests.wire.engine_pages import recorded


def samples(pool: EndpointPool, now: float = 0.0) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = "".join(EndpointSeries(pool, lambda: now).lines(openmetrics=False))
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(pool: EndpointPool, name: str, *, now: float = 0.0, endpoint: str = "e0", **labels: str) -> float | None:
    labels["endpoint"] = endpoint
    return samples(pool, now).get((f"llmgate_endpoint_{name}", frozenset(labels.items())))


def ready(pool: EndpointPool) -> dict[str, float]:
    """Ready endpoints by model."""
    return {dict(labels)["model"]: value for (name, labels), value in samples(pool).items() if "ready" in name}


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
    next(iter(pool)).metrics = EndpointMetrics(
        at=100.0, running=7, waiting=0, kv_usage=0.25, kv_capacity_tokens=8192, max_running=8
    )
    assert value(pool, "running_requests", now=101.5) == 7
    assert value(pool, "waiting_requests", now=101.5) == 0
    assert value(pool, "kv_cache_usage_ratio", now=101.5) == 0.25
    assert value(pool, "kv_cache_capacity_tokens", now=101.5) == 8192
    assert value(pool, "max_running_requests", now=101.5) == 8
    assert value(pool, "metrics_age_seconds", now=101.5) == 1.5


STALE = EndpointMetrics(50.0, 1, 3, 0.5, 100, max_running=8, counts=EngineCounts(1, 2, 3, 4))


@pytest.mark.parametrize("reading", [None, EndpointMetrics(at=100.0), STALE], ids=["none", "empty", "stale"])
def test_what_is_unknown_or_stale_is_absent_and_never_zero(reading: EndpointMetrics | None) -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = reading
    told = {"running", "waiting", "kv_cache", "max_running", "tokens", "preemptions"}
    names = {name.removeprefix("llmgate_endpoint_") for name, _ in samples(pool, 100.0)}
    assert not {name for name in names if name.startswith(tuple(told))}


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


def test_the_engines_own_counters_keep_their_kinds() -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = EndpointMetrics(at=0.0, counts=EngineCounts(100, 40, 7, 2))
    assert [value(pool, "tokens_total", kind=kind) for kind in ("prompt", "cached", "completion")] == [100, 40, 7]
    assert value(pool, "preemptions_total") == 2


def test_one_state_is_1_and_changes_are_counted_by_where_they_led() -> None:
    pool = make.pool(1, up=False)
    (endpoint,) = pool
    assert value(pool, "state", state="starting") == 1
    endpoint.health.probe_passed()
    for _ in range(2):
        endpoint.health.request_ended(Verdict.UNREACHABLE, 0.0, trial=0)
        for _ in range(2):
            endpoint.health.probe_passed()
    states = {state: value(pool, "state", state=state) for state in ("starting", "up", "down", "ejected", "half_open")}
    assert states == {"starting": 0, "up": 1, "down": 0, "ejected": 0, "half_open": 0}
    assert value(pool, "state_changes_total", state="ejected") == 2
    assert value(pool, "state_changes_total", state="up") == 3
    assert value(pool, "state_changes_total", state="half_open") == 0, "there from the start, for rate()"


def test_what_an_endpoint_is_and_counts_for_is_told() -> None:
    pool = EndpointPool([EndpointSpec("e0", "http://e0", weight=2.5, engine="vllm", gpu="H100", node="n")])
    assert value(pool, "info", engine="vllm", gpu="H100", node="n") == 1
    assert value(pool, "weight") == 2.5


def test_ready_endpoints_are_counted_by_model_and_adapters_are_left_out() -> None:
    pool = make.pool(2)
    first, second = pool
    pool.set_models(first, {"m": "m", "adapter": "adapter"}, {"adapter": "m"})
    pool.set_models(second, {"m": "m", "n": "n"})
    assert ready(pool) == {"m": 2, "n": 1}
    pool.set_draining(second, True)
    assert ready(pool) == {"m": 1, "n": 0}


def test_an_engine_with_thousands_of_models_does_not_bring_thousands_of_series() -> None:
    pool = EndpointPool([EndpointSpec("e0", "http://e0"), EndpointSpec("e1", "http://e1", models={"stated": "s"})])
    many = [f"m{number}" for number in range(3 * MOST_MODELS)]
    pool.set_models(next(iter(pool)), dict(zip(many, many, strict=True)))
    counted = ready(pool)
    assert len(counted) == MOST_MODELS
    assert "stated" in counted


GAUGES = {"running_requests", "waiting_requests", "kv_cache_usage_ratio", "kv_cache_capacity_tokens"}
COUNTS = {"prompt", "cached", "completion"}


@pytest.mark.parametrize(
    ("engine", "page", "gauges", "tokens", "preempts"),
    [
        ("vllm", "vllm-0.32/metrics-load.txt", GAUGES, COUNTS, True),
        ("sglang", "reconstructed/sglang-dp2-priority.txt", GAUGES, COUNTS, True),
        ("tgi", "reconstructed/tgi.txt", {"running_requests", "waiting_requests"}, COUNTS - {"cached"}, False),
        ("trtllm", "reconstructed/trtllm.txt", GAUGES | {"max_running_requests"}, COUNTS - {"cached"}, False),
        ("llamacpp", "llamacpp-2026.10/metrics-load.txt", {"running_requests", "waiting_requests"}, COUNTS, False),
    ],
)
def test_all_makes_of_engines_are_shown_in_one_vocabulary(
    engine: str, page: str, gauges: set[str], tokens: set[str], preempts: bool
) -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = parse_metrics(engine, recorded(page), 0.0)
    own = {"running_requests", "waiting_requests", "max_running_requests"}
    found = samples(pool)
    names = {name.removeprefix("llmgate_endpoint_") for name, _ in found}
    assert {name for name in names if name in own or name.startswith("kv_cache")} == gauges
    assert {dict(labels)["kind"] for name, labels in found if name == "llmgate_endpoint_tokens_total"} == tokens
    assert ("preemptions_total" in names) == preempts
