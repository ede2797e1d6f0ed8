"""Rules and alerts by themselves, as promtool finds them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.dashboards import PROMETHEUS, metrics_in, rules
from tests.docs.pages import read, rows
from tests.support.processes import program

CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))


def promtool(*arguments: str | Path) -> str:
    """What it says; it must be content."""
    command = [program("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_configuration_and_its_rules_are_valid() -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    for file in ("rules.yml", "alerts.yml"):
        assert f"{len(rules(file))} rules found" in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_come_when_they_should_and_not_before(case: Path) -> None:
    promtool("test", "rules", case)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fires = {
        test["alertname"]
        for case in CASES
        for each in yaml.safe_load(case.read_text())["tests"]
        for test in each.get("alert_rule_test", ())
        if test.get("exp_alerts")
    }
    assert fires == {rule["alert"] for rule in rules("alerts.yml")}


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_severity_and_a_summary(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket", "scale")
    assert set(rule["annotations"]) == {"summary"}


def test_recorded_series_that_alerts_ask_for_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    for rule in rules("alerts.yml") + rules("rules.yml"):
        assert {name for name in metrics_in(rule["expr"]) if ":" in name} <= recorded, rule


def test_every_alert_is_on_the_page_with_its_severity() -> None:
    page = read("docs/observability.md").partition("## Alerts")[2]
    listed = {cells[0].strip("`"): cells[1] for cells in rows(page) if cells[0].startswith("`Llmgate")}
    assert listed == {rule["alert"]: rule["labels"]["severity"] for rule in rules("alerts.yml")}
