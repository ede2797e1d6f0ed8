from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgate.telemetry.exposition import header, labels


@pytest.mark.parametrize("value", ["plain", 'a"quote', "back\\slash", "line\nbreak", "\\n", "ünï", "", "a,b={}"])
def test_any_label_value_survives_the_text_format(value: str) -> None:
    (family,) = text_string_to_metric_families(f"# TYPE g gauge\ng{{{labels(model=value)}}} 1\n")
    assert family.samples[0].labels == {"model": value}


def test_openmetrics_names_a_counters_family_without_its_suffix() -> None:
    assert header("x_total", "counter", "Help.", openmetrics=True) == "# HELP x Help.\n# TYPE x counter\n"
    assert header("x_total", "counter", "Help.", openmetrics=False) == "# HELP x_total Help.\n# TYPE x_total counter\n"
