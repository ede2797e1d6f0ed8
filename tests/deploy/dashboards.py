"""What deploy/grafana and deploy/prometheus hold, as tests read it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
GRAFANA = DEPLOY / "grafana"
PROMETHEUS = DEPLOY / "prometheus"
NAMES = ("endpoints", "gpus", "overview", "routing")

METRIC = re.compile(r"(?<![\w:])(?:llmgate|process|up)\b(?:_\w+)?|(?<![\w:])job\w*:llmgate_\w+:\w+")


def _load_make() -> Any:
    spec = importlib.util.spec_from_file_location("grafana_make", GRAFANA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load_make()


class Query(NamedTuple):
    where: str
    expr: str
    may_be_empty: str = ""
    """Why there may be nothing to show."""


def panel_queries() -> Iterator[Query]:
    """Of every panel, as Grafana sends them for all values of its variables."""
    for name in NAMES:
        described = yaml.safe_load((GRAFANA / f"{name}.yaml").read_text())
        for row in described["rows"]:
            for panel in row["panels"]:
                for query in panel["queries"]:
                    expr = re.sub(r'"\$\w+"', '".*"', query["expr"]).replace("$__rate_interval", "1m")
                    yield Query(f"{name}: {panel['title']}", expr, query.get("may_be_empty", ""))


def rules(file: str) -> list[dict[str, Any]]:
    """Of rules.yml or alerts.yml."""
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_in(expr: str) -> set[str]:
    """Names of series in an expression, recorded ones among them."""
    without_strings = re.sub(r'"[^"]*"', '""', expr)
    found = set(METRIC.findall(without_strings))
    return found - {"job"}
