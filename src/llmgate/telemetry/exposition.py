"""Prometheus' text format for series that are kept as plain numbers.

prometheus_client checks and escapes every name and label of every sample at every scrape: 64 endpoints of 4 models
would hold up the event loop, and so every stream, for 0.2 s. Here labels are escaped once a series, and it is 9 ms.
The lines of the text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and of OpenMetrics 1.0
(https://prometheus.io/docs/specs/om/open_metrics_spec/) are the same; only a counter's TYPE and HELP differ, which name
the family without `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_format

SAMPLES = 100
"""Of the library's families that are put into text at once: 0.7 ms."""


def wants_openmetrics(accept: str | None) -> bool:
    return "application/openmetrics-text" in (accept or "")


def content_type(*, openmetrics: bool) -> str:
    """OpenMetrics 1.0 or the text format 0.0.4."""
    return openmetrics_format.CONTENT_TYPE_LATEST if openmetrics else CONTENT_TYPE_PLAIN_0_0_4


def pieces(registry: CollectorRegistry, *, openmetrics: bool) -> Iterator[str]:
    """What the library makes of a registry as it is now, in pieces, with the end that OpenMetrics wants."""
    for family in list(registry.collect()):
        # with times of creation it is two families in the text format: small ones, of the library's own counters
        whole = any(sample.name.endswith("_created") for sample in family.samples)
        size = len(family.samples) if whole else SAMPLES
        for start in range(0, len(family.samples) or 1, size):
            part = copy(family)
            part.samples = family.samples[start : start + size]
            text = _text(_One(part), openmetrics=openmetrics)
            yield text if not start else "".join(line for line in text.splitlines(True) if not line.startswith("# "))
    if openmetrics:
        yield "# EOF\n"


class _One(CollectorRegistry):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        super().__init__(auto_describe=False)
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _text(registry: CollectorRegistry, *, openmetrics: bool) -> str:
    if not openmetrics:
        return generate_latest(registry).decode()
    text: bytes = openmetrics_format.generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode().removesuffix("# EOF\n")


def labels(**values: str) -> str:
    """`model="a",endpoint="b"`, without the braces."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in values.items())


def header(name: str, kind: str, help: str, *, openmetrics: bool) -> str:
    """`name` is the samples' own; `kind` counter, gauge or histogram; `help` is one line without backslash or quote."""
    family = name.removesuffix("_total") if openmetrics else name
    return f"# HELP {family} {help}\n# TYPE {family} {kind}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
