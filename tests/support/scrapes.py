"""What a scrape shows, at once."""

from __future__ import annotations

from llmgate.telemetry.metrics import Metrics


def page_of(metrics: Metrics, *, openmetrics: bool = False) -> str:
    return "".join(metrics.pieces(openmetrics=openmetrics))
