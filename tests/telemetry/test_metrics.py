from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from llmgate import __version__
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointMetrics, EndpointSpec, EngineCounts, Usage
from llmgate.telemetry.metrics import Metrics
from tests.core import make
from tests.support.scrapes import page_of

Parser = Callable[[str], Iterable[Metric]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

SERIES = {
    "llmgate_requests_total": {"model", "endpoint", "code"},
    "llmgate_request_duration_seconds_bucket": {"model", "endpoint", "le"},
    "llmgate_time_to_first_token_seconds_bucket": {"model", "endpoint", "le"},
    "llmgate_inter_token_latency_seconds_bucket": {"model", "endpoint", "le"},
    "llmgate_gateway_overhead_seconds_bucket": {"model", "endpoint", "le"},
    "llmgate_tokens_total": {"model", "endpoint", "kind"},
    "llmgate_expected_cached_tokens_total": {"model", "endpoint"},
    "llmgate_prefix_hit_ratio": {"model", "endpoint"},
    "llmgate_broken_answers_total": {"model", "endpoint"},
    "llmgate_decisions_total": {"policy", "choice"},
    "llmgate_ready_endpoints": {"model"},
    "llmgate_retries_total": {"endpoint", "reason"},
    "llmgate_rejected_total": {"reason"},
    "llmgate_estimate_error_ratio_bucket": {"model", "le"},
    "llmgate_predicted_ttft_error_ratio_bucket": {"model", "endpoint", "le"},
    "llmgate_predicted_tpot_error_ratio_bucket": {"model", "endpoint", "le"},
    "llmgate_slo_requests_total": {"model", "target", "met"},
    "llmgate_endpoint_up": {"endpoint"},
    "llmgate_endpoint_draining": {"endpoint"},
    "llmgate_endpoint_inflight_requests": {"endpoint"},
    "llmgate_endpoint_inflight_tokens": {"endpoint"},
    "llmgate_endpoint_kv_cache_usage_ratio": {"endpoint"},
    "llmgate_endpoint_waiting_requests": {"endpoint"},
    "llmgate_endpoint_metrics_age_seconds": {"endpoint"},
    "llmgate_endpoint_kv_cache_capacity_tokens": {"endpoint"},
    "llmgate_endpoint_running_requests": {"endpoint"},
    "llmgate_endpoint_max_running_requests": {"endpoint"},
    "llmgate_endpoint_weight": {"endpoint"},
    "llmgate_endpoint_info": {"endpoint", "engine", "gpu", "node"},
    "llmgate_endpoint_state": {"endpoint", "state"},
    "llmgate_endpoint_state_changes_total": {"endpoint", "state"},
    "llmgate_endpoint_tokens_total": {"endpoint", "kind"},
    "llmgate_endpoint_preemptions_total": {"endpoint"},
    "llmgate_build_info": {"version", "python"},
    "process_resident_memory_bytes": set(),
    "python_info": {"version", "implementation", "major", "minor", "patchlevel"},
    "python_gc_collections_total": {"generation"},
}


def metrics_of(pool: EndpointPool) -> Metrics:
    return Metrics(pool, lambda: 10.0)


def parsed(metrics: Metrics, parse: Parser = parse_text) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(page_of(metrics, openmetrics=parse is not parse_text))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def end(
    metrics: Metrics, *, model: str = "m", endpoint: str = "e0", status: int = 200, usage: Usage | None = None
) -> None:
    metrics.request_ended(
        model,
        endpoint,
        status,
        stream=True,
        duration=3.0,
        ttft=1.0,
        overhead=0.0001,
        usage=usage or Usage(prompt_tokens=100, completion_tokens=41, cached_tokens=64),
        estimated_prompt_tokens=110,
        expected_cached_tokens=48,
    )


@pytest.mark.parametrize("parse", [parse_text, parse_openmetrics])
def test_every_series_is_emitted_with_its_labels_in_both_formats(parse: Parser) -> None:
    pool = make.pool(1)
    next(iter(pool)).metrics = EndpointMetrics(
        9.0, running=1, waiting=2, kv_usage=0.5, kv_capacity_tokens=100, max_running=8, counts=EngineCounts(9, 5, 4, 3)
    )
    metrics = metrics_of(pool)
    end(metrics)
    metrics.decisions.of("p").made(1, 1)
    metrics.objectives.ttft_predicted("m", "e0", 1.0)
    metrics.objectives.tpot_predicted("m", "e0", 1.0)
    metrics.objectives.slo_ended("m", "ttft", True)
    metrics.retried("e0", "connect_failed")
    metrics.rejected("model_not_found")
    labels = {name: {label for label, _ in pairs} for name, pairs in parsed(metrics, parse)}
    assert {name: labels.get(name) for name in SERIES} == SERIES


def test_a_streamed_request_is_counted_in_every_histogram_and_counter() -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics)
    end(metrics, status=502)
    samples = parsed(metrics)
    on = {"model": "m", "endpoint": "e0"}
    assert value(samples, "llmgate_requests_total", **on, code="200") == 1
    assert value(samples, "llmgate_requests_total", **on, code="502") == 1
    assert value(samples, "llmgate_request_duration_seconds_sum", **on) == 6
    assert value(samples, "llmgate_request_duration_seconds_count", **on) == 2
    assert value(samples, "llmgate_time_to_first_token_seconds_sum", **on) == 2
    assert value(samples, "llmgate_inter_token_latency_seconds_sum", **on) == pytest.approx(2 * (3 - 1) / 40)
    assert value(samples, "llmgate_gateway_overhead_seconds_bucket", **on, le="5e-05") == 0
    assert value(samples, "llmgate_gateway_overhead_seconds_bucket", **on, le="0.0001") == 2
    assert value(samples, "llmgate_tokens_total", **on, kind="prompt") == 200
    assert value(samples, "llmgate_tokens_total", **on, kind="cached") == 128
    assert value(samples, "llmgate_tokens_total", **on, kind="completion") == 82
    assert value(samples, "llmgate_estimate_error_ratio_sum", model="m") == pytest.approx(2.2)


def test_an_answer_in_one_piece_has_no_first_token_and_no_time_between_tokens() -> None:
    metrics = metrics_of(make.pool(1))
    usage = Usage(prompt_tokens=10, completion_tokens=20)
    metrics.request_ended("m", "e0", 200, stream=False, duration=3.0, ttft=3.0, usage=usage)
    names = {name for name, _ in parsed(metrics)}
    assert "llmgate_request_duration_seconds_count" in names
    assert "llmgate_time_to_first_token_seconds_count" not in names
    assert "llmgate_inter_token_latency_seconds_count" not in names


def test_one_token_has_no_time_between_tokens() -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics, usage=Usage(prompt_tokens=10, completion_tokens=1))
    assert value(parsed(metrics), "llmgate_inter_token_latency_seconds_count", model="m", endpoint="e0") is None


def test_what_is_not_known_of_a_request_is_not_counted() -> None:
    metrics = metrics_of(make.pool(1))
    metrics.request_ended("m", "e0", 502, stream=True, duration=1.0, estimated_prompt_tokens=100)
    samples = parsed(metrics)
    assert value(samples, "llmgate_requests_total", model="m", endpoint="e0", code="502") == 1
    names = {name for name, _ in samples}
    assert not names & {"llmgate_gateway_overhead_seconds_count", "llmgate_estimate_error_ratio_count"}


def test_cached_tokens_are_absent_until_an_engine_reports_them() -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics, usage=Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=None))
    assert value(parsed(metrics), "llmgate_tokens_total", model="m", endpoint="e0", kind="cached") is None
    end(metrics, usage=Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=0))
    assert value(parsed(metrics), "llmgate_tokens_total", model="m", endpoint="e0", kind="cached") == 0


def test_expected_hits_are_held_against_reported_ones_where_there_are_any() -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics, usage=Usage(prompt_tokens=10, completion_tokens=2))
    on = {"model": "m", "endpoint": "e0"}
    assert value(parsed(metrics), "llmgate_expected_cached_tokens_total", **on) is None
    assert value(parsed(metrics), "llmgate_prefix_hit_ratio", **on) is None
    end(metrics)
    assert value(parsed(metrics), "llmgate_expected_cached_tokens_total", **on) == 48
    assert value(parsed(metrics), "llmgate_prefix_hit_ratio", **on) == 0.64, "of those that tell only"


def test_errors_are_counted_from_zero_on_so_that_rate_sees_the_first() -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics)
    samples = parsed(metrics)
    on = {"model": "m", "endpoint": "e0"}
    assert [value(samples, "llmgate_requests_total", **on, code=code) for code in ("502", "503", "504")] == [0, 0, 0]
    assert value(samples, "llmgate_broken_answers_total", **on) == 0
    assert value(samples, "llmgate_rejected_total", reason="no_ready_endpoint") == 0
    assert value(samples, "llmgate_reloads_total", result="refused") == 0


def test_broken_answers_are_counted_and_leave_with_their_endpoint() -> None:
    pool = make.pool(1)
    metrics = metrics_of(pool)
    metrics.broken("m", "e0")
    end(metrics)
    metrics.broken("m", "e0")
    assert value(parsed(metrics), "llmgate_broken_answers_total", model="m", endpoint="e0") == 2
    pool.remove("e0")
    assert "llmgate_broken_answers_total{" not in page_of(metrics)


@pytest.mark.parametrize("usage", [Usage(prompt_tokens=100, completion_tokens=2, counted=True), Usage(prompt_tokens=0)])
def test_an_estimate_is_judged_by_the_engines_own_count_only(usage: Usage) -> None:
    metrics = metrics_of(make.pool(1))
    end(metrics, usage=usage)
    assert value(parsed(metrics), "llmgate_estimate_error_ratio_count", model="m") is None


def test_endpoints_of_one_model_share_its_estimate_series() -> None:
    metrics = metrics_of(make.pool(2))
    end(metrics, endpoint="e0")
    end(metrics, endpoint="e1")
    assert value(parsed(metrics), "llmgate_estimate_error_ratio_count", model="m") == 2


def test_retries_and_rejections_are_counted_by_reason() -> None:
    metrics = metrics_of(make.pool(1))
    for _ in range(2):
        metrics.retried("e0", "connect_failed")
    metrics.rejected("no_ready_endpoint")
    samples = parsed(metrics)
    assert value(samples, "llmgate_retries_total", endpoint="e0", reason="connect_failed") == 2
    assert value(samples, "llmgate_rejected_total", reason="no_ready_endpoint") == 1


def test_a_forgotten_endpoint_loses_its_series_and_a_namesake_starts_at_zero() -> None:
    pool = make.pool(2)
    metrics = metrics_of(pool)
    for endpoint in ("e0", "e1"):
        end(metrics, endpoint=endpoint)
        metrics.retried(endpoint, "truncated")
    pool.remove("e0")
    metrics.forget("e0")
    pool.add(EndpointSpec("e0", "http://e0"))
    end(metrics, endpoint="e0")
    samples = parsed(metrics)
    assert value(samples, "llmgate_requests_total", model="m", endpoint="e0", code="200") == 1
    assert value(samples, "llmgate_requests_total", model="m", endpoint="e1", code="200") == 1
    assert value(samples, "llmgate_retries_total", endpoint="e0", reason="truncated") is None
    assert value(samples, "llmgate_retries_total", endpoint="e1", reason="truncated") == 1


def test_a_request_that_outlives_its_endpoint_leaves_no_series_behind() -> None:
    pool = make.pool(2)
    metrics = metrics_of(pool)
    pool.remove("e0")
    metrics.forget("e0")
    end(metrics, model="only-on-e0", endpoint="e0")
    assert '"e0"' not in page_of(metrics)
    assert "only-on-e0" not in page_of(metrics)


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    pool = EndpointPool([EndpointSpec('e"0\\', "http://e0")])
    metrics = metrics_of(pool)
    end(metrics, model="m\n1", endpoint='e"0\\')
    assert value(parsed(metrics), "llmgate_requests_total", model="m\n1", endpoint='e"0\\', code="200") == 1


def test_two_gateways_in_one_process_share_nothing() -> None:
    first, second = metrics_of(make.pool(1)), metrics_of(make.pool(1))
    first.rejected("model_not_found")
    assert "model_not_found" not in page_of(second)


def test_the_running_version_is_shown() -> None:
    assert f'version="{__version__}"' in page_of(metrics_of(make.pool(1)))
