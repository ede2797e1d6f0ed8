"""What counts the tokens of each model's prompts, and where that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

ESTIMATED = "none"
"""The library of a tokenizer that cannot be used."""


class TokenizerCollector(Collector):
    """`llmgate_tokenizer_info` and `llmgate_uncountable_prompts_total`, of models with a configured tokenizer."""

    def __init__(self, libraries: Callable[[], Mapping[str, str]], uncountable: Mapping[str, int]) -> None:
        """`libraries` gives what is in use by model at the scrape, `uncountable` the prompts that were estimated all
        the same."""
        self._libraries = libraries
        self._uncountable = uncountable

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        libraries = self._libraries()
        info = GaugeMetricFamily(
            "llmgate_tokenizer_info",
            "1 for the library that counts the model's prompts; `none` where its tokenizer cannot be used.",
            labels=["model", "library"],
        )
        failures = CounterMetricFamily(
            "llmgate_uncountable_prompts",
            "Prompts that the model's tokenizer or chat template could not do; they were estimated.",
            labels=["model"],
        )
        for model, library in libraries.items():
            info.add_metric([model, library], 1.0)
            failures.add_metric([model], self._uncountable.get(model, 0))
        yield info
        yield failures
