"""What `--policy` may say."""

from __future__ import annotations

import pytest

from llmgate.routing.expected_latency import ExpectedLatency
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.routing.round_robin import RoundRobin
from llmgate.sim.oracle import Oracle
from llmgate.sim.policies import every_name, make_router


def test_every_built_in_policy_can_be_made_and_is_new_each_time() -> None:
    for name in every_name():
        assert make_router(name) is not make_router(name)


def test_options_follow_a_colon() -> None:
    router = make_router("prefix-affinity:patience=2,relative=0.25")
    assert isinstance(router, PrefixAffinity)
    assert (router.patience, router.relative) == (2, 0.25)
    oracle = make_router("oracle:prefill_harm=2")
    assert isinstance(oracle, Oracle)
    assert oracle.prefill_harm == 2


def test_a_router_class_is_named_by_its_module() -> None:
    assert isinstance(make_router("llmgate.routing.round_robin:RoundRobin"), RoundRobin)
    router = make_router("llmgate.routing.expected_latency:ExpectedLatency:tie_margin=0.5")
    assert isinstance(router, ExpectedLatency)
    assert router.tie_margin == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prefix-afinity", "did you mean prefix-affinity"),
        ("prefix-affinity:patiance=2", "did you mean patience"),
        ("prefix-affinity:patience", "could not be imported"),
        ("prefix-affinity:patience=x", "must be a number"),
        ("prefix-affinity:patience=1,=2", "is no option"),
        ("no.such.module:Class", "could not be imported"),
        ("llmgate.routing.round_robin:Nothing", "its routers are: Router, RoundRobin"),
        ("llmgate.routing.limits:check", "it has no Router"),
        ("llmgate.routing.round_robin:RoundRobin:x=1", "has no such option"),
        ("a:b:c", "write NAME or package.module:Class"),
        ("", "write NAME or package.module:Class"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_router(text)
