from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from benchmarks.schedule.__main__ import Gateway, main, routers
from llmgate.routing import registry


def test_every_policy_is_in_the_table() -> None:
    assert routers().keys() == {*registry.BUILT_IN, "profile"}


@pytest.mark.parametrize("name", routers())
def test_what_is_timed_is_a_gateway_at_work(name: str) -> None:
    gateway = Gateway(routers()[name], 8)
    assert gateway.scheduler.ledger.open_charges == 32
    decisions = gateway.scheduler.decisions
    assert len({decision.endpoint.name for decision in decisions}) > 4
    if gateway.scheduler.router.needs_prefix:
        assert any(decision.cached_tokens for decision in decisions)
        assert any(len(set(decision.candidates.cached_tokens)) > 1 for decision in decisions)


def test_the_table_is_markdown() -> None:
    result = CliRunner().invoke(main, ["random", "--size", "2", "--size", "3", "--decisions", "10", "--runs", "1"])
    assert result.exit_code == 0
    assert re.fullmatch(
        r"\| µs \| 2 endpoints \| 3 endpoints \|\n\|---\|---\|---\|\n\| random( \| [\d.]+){2} \|\n", result.output
    )
    assert CliRunner().invoke(main, ["zzz"]).exit_code == 2
