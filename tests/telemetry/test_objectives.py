from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from llmgate.telemetry.metrics import Metrics
from tests.core import make
from tests.support.scrapes import page_of


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page_of(metrics))
        for sample in family.samples
        if sample.name.startswith(("llmgate_predicted", "llmgate_slo"))
    }


def metrics() -> Metrics:
    return Metrics(make.pool(2), lambda: 0.0)


def test_predictions_are_counted_by_model_and_endpoint() -> None:
    made = metrics()
    made.objectives.ttft_predicted("m", "e0", 0.5)
    made.objectives.ttft_predicted("m", "e0", 1.0)
    made.objectives.tpot_predicted("m", "e1", 2.0)
    found = samples(made)
    assert found["llmgate_predicted_ttft_error_ratio_sum", frozenset({("model", "m"), ("endpoint", "e0")})] == 1.5
    assert found["llmgate_predicted_tpot_error_ratio_sum", frozenset({("model", "m"), ("endpoint", "e1")})] == 2.0


def test_targets_are_counted_by_whether_they_were_met() -> None:
    made = metrics()
    for met in (True, True, False):
        made.objectives.slo_ended("m", "ttft", met)
    found = samples(made)
    name = "llmgate_slo_requests_total"
    assert found[name, frozenset({("model", "m"), ("target", "ttft"), ("met", "true")})] == 2
    assert found[name, frozenset({("model", "m"), ("target", "ttft"), ("met", "false")})] == 1


def test_misses_are_counted_from_zero_on_so_that_rate_sees_the_first() -> None:
    made = metrics()
    made.objectives.slo_ended("m", "tpot", True)
    name = "llmgate_slo_requests_total"
    assert samples(made)[name, frozenset({("model", "m"), ("target", "tpot"), ("met", "false")})] == 0


def test_series_go_with_their_endpoint_and_those_of_a_model_with_its_last() -> None:
    made = metrics()
    for endpoint in ("e0", "e1"):
        made.request_ended("m", endpoint, 200, stream=True, duration=1.0)
        made.objectives.ttft_predicted("m", endpoint, 1.0)
    made.objectives.slo_ended("m", "ttft", True)
    made.forget("e0")
    found = samples(made)
    assert {dict(labels)["endpoint"] for name, labels in found if name.endswith("ratio_count")} == {"e1"}
    assert any(name == "llmgate_slo_requests_total" for name, _ in found)
    made.forget("e1")
    assert samples(made) == {}


def test_a_request_that_outlives_its_endpoint_leaves_no_series() -> None:
    made = metrics()
    made.objectives.ttft_predicted("m", "gone", 1.0)
    assert samples(made) == {}
