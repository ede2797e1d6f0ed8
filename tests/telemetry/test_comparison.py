from __future__ import annotations

from random import Random

from prometheus_client import CollectorRegistry, generate_latest

from llmgate.core.comparison import Comparison
from llmgate.core.protocols import Candidates
from llmgate.core.slo import Prediction
from llmgate.routing import registry
from llmgate.telemetry.comparison import ComparisonCollector
from tests.core.make import endpoint, request


def page(comparison: Comparison | None) -> str:
    collected = CollectorRegistry()
    collected.register(ComparisonCollector(lambda: comparison))
    return generate_latest(collected).decode()


def test_each_policy_has_its_decisions_and_what_they_were_expected_to_take() -> None:
    rivals = {"least-connections": registry.create("least-connections")}
    made = Comparison("mine", rivals, lambda *_: Prediction(2.0, 0.5), Random(0), failed=lambda *_: None)
    busy, idle = endpoint("busy"), endpoint("idle", slot=1)
    busy.load.requests = 1
    made.compare(request(output=4), Candidates([busy, idle], [0, 0], 0.0), 0)
    text = page(made)
    for line in (
        'llmgate_shadow_decisions_total{policy="mine",same="true"} 1.0',
        'llmgate_shadow_decisions_total{policy="mine",same="false"} 0.0',
        'llmgate_shadow_decisions_total{policy="least-connections",same="true"} 0.0',
        'llmgate_shadow_decisions_total{policy="least-connections",same="false"} 1.0',
        'llmgate_shadow_expected_ttft_seconds_total{policy="mine"} 2.0',
        'llmgate_shadow_expected_e2e_seconds_total{policy="least-connections"} 4.0',
    ):
        assert f"\n{line}\n" in text


def test_there_are_no_series_where_nothing_is_compared() -> None:
    assert page(None) == ""
