"""The dashboards' JSON; what their queries find is for test_prometheus.py."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from tests.deploy.dashboards import GRAFANA, NAMES, make, metrics_in, panel_queries, rules

DASHBOARDS = [pytest.param(json.loads((GRAFANA / f"{name}.json").read_text()), id=name) for name in NAMES]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_json_is_what_its_description_makes() -> None:
    assert make.names() == sorted(NAMES)
    for name in NAMES:
        message = "run: python deploy/grafana/make.py"
        assert (GRAFANA / f"{name}.json").read_text(encoding="utf-8") == make.rendered(name), message


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_every_panel_asks_the_chosen_datasource_and_says_what_to_do(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert len(panel["description"]) > 5, panel["title"]
        assert panel["targets"], panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_panels_have_numbers_and_places_of_their_own(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_every_variable_is_defined_and_used(dashboard: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(dashboard["panels"])))
    assert used == defined
    for variable in dashboard["templating"]["list"]:
        assert variable["type"] == "datasource" or variable["datasource"]["uid"] == "${datasource}"


def test_dashboards_are_told_apart_and_link_to_each_other() -> None:
    made = [make.dashboard(name) for name in NAMES]
    assert {each["uid"] for each in made} == {f"llmgate-{name}" for name in NAMES}
    assert all(link["tags"] == each["tags"] == ["llmgate"] for each in made for link in each["links"])


def test_recorded_series_that_are_asked_for_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    for query in panel_queries():
        assert {name for name in metrics_in(query.expr) if ":" in name} <= recorded, query


def test_legends_name_labels_that_the_query_leaves() -> None:
    """An aggregation drops all labels but those it names."""
    for name in NAMES:
        for panel in panels(make.dashboard(name)):
            for target in panel["targets"]:
                kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                if kept and panel["type"] != "heatmap":
                    labels = {label.strip() for each in kept for label in each.split(",")}
                    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                    assert wanted <= labels, (panel["title"], target["legendFormat"])
