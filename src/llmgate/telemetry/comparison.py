"""What other policies would have chosen, as series: a change of policy can be judged over days."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from llmgate.core.comparison import Comparison


class ComparisonCollector(Collector):
    """`current` gives the comparison that there is now, if any."""

    def __init__(self, current: Callable[[], Comparison | None]) -> None:
        self._current = current

    def collect(self) -> Iterator[Metric]:
        comparison = self._current()
        if comparison is None:
            return
        decisions = CounterMetricFamily(
            "llmgate_shadow_decisions",
            "Decisions that each policy was asked about, and whether it chose as the one that routes.",
            labels=("policy", "same"),
        )
        ttft = CounterMetricFamily(
            "llmgate_shadow_expected_ttft_seconds", "Time to first token expected of its choices.", labels=("policy",)
        )
        e2e = CounterMetricFamily(
            "llmgate_shadow_expected_e2e_seconds", "Time to the last token expected of its choices.", labels=("policy",)
        )
        for standing in comparison.standings:
            decisions.add_metric((standing.name, "true"), standing.same)
            decisions.add_metric((standing.name, "false"), standing.decisions - standing.same)
            ttft.add_metric((standing.name,), standing.ttft)
            e2e.add_metric((standing.name,), standing.e2e)
        yield from (decisions, ttft, e2e)
