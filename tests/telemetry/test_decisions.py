from __future__ import annotations

import pytest

from llmgate.telemetry.decisions import DecisionsByPolicy


def counts(decisions: DecisionsByPolicy) -> dict[str, int]:
    lines = [line for line in decisions.lines(openmetrics=False) if not line.startswith("#")]
    return {name: int(count) for name, count in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("candidates", "tied", "choice"), [(1, 1, "only"), (2, 1, "best"), (2, 2, "tied"), (8, 3, "tied"), (8, 1, "best")]
)
def test_a_decision_counts_by_how_clear_it_was(candidates: int, tied: int, choice: str) -> None:
    decisions = DecisionsByPolicy()
    decisions.of("p").made(candidates, tied)
    assert counts(decisions) == {
        f'llmgate_decisions_total{{policy="p",choice="{each}"}}': int(each == choice)
        for each in ("best", "only", "tied")
    }


def test_a_policy_that_comes_back_goes_on_counting() -> None:
    decisions = DecisionsByPolicy()
    for policy in ("p", "q", "p"):
        decisions.of(policy).made(2, 1)
    found = counts(decisions)
    assert found['llmgate_decisions_total{policy="p",choice="best"}'] == 2
    assert found['llmgate_decisions_total{policy="q",choice="best"}'] == 1
