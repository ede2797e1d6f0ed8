from __future__ import annotations

from random import Random

import pytest

from llmgate.core.comparison import Comparison
from llmgate.core.types import InferenceRequest
from llmgate.routing import registry
from llmgate.routing.rivals import LoadJudge, comparison
from tests.core.make import endpoint, request


def of(name: str, *, sessions: bool = False) -> Comparison:
    return comparison(name, registry.create(name), Random(0), sessions=sessions, failed=lambda *_: None)


def notes(made: Comparison) -> dict[str, str]:
    return {each.name: each.note for each in made.standings if each.note}


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_built_in_policy_is_there_once(name: str) -> None:
    names = [each.name for each in of(name).standings]
    assert names[0] == name
    assert sorted(names) == sorted(registry.BUILT_IN)


def test_a_policy_of_ones_own_is_compared_with_all_of_them() -> None:
    made = comparison("mine", registry.create("random"), Random(0), sessions=True, failed=lambda *_: None)
    assert [each.name for each in made.standings] == ["mine", *registry.BUILT_IN]


def test_only_what_is_looked_at_anyway_is_there_to_go_by() -> None:
    assert notes(of("expected-latency", sessions=True)) == {}
    assert notes(of("expected-latency")).keys() == {"session-affinity"}
    assert notes(of("least-connections", sessions=True)).keys() == {"prefix-affinity", "expected-latency"}
    assert notes(of("session-affinity")).keys() == {"prefix-affinity", "expected-latency"}


def predicted(judge: LoadJudge, asked: InferenceRequest, *, ahead: int, cached: int = 0, weight: float = 1.0) -> float:
    there = endpoint(weight=weight)
    there.load.prefill_tokens = ahead
    return judge.predict(asked, there, cached, 100.0).ttft


def test_without_history_a_choice_is_judged_by_load_cache_and_weight() -> None:
    judge, asked = LoadJudge(), request(1000)
    alone = predicted(judge, asked, ahead=0)
    assert predicted(judge, asked, ahead=8000) == pytest.approx(alone + 1.0)  # at the 8,000 tokens/s of the prior
    assert predicted(judge, asked, ahead=0, cached=900) < alone / 5
    assert predicted(judge, asked, ahead=8000, weight=2.0) == pytest.approx(predicted(judge, asked, ahead=8000) / 2)
