"""What the other policies would have chosen, by the admin port and in the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from llmgate.routing import registry
from tests.support.fake_engine import FakeEngine, completion
from tests.support.serving import HELLO, Served, serving

ROUTER = {"policy": "session-affinity"}


@pytest.fixture(autouse=True)
def compare_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every decision, not 20 a second."""
    monkeypatch.setattr("llmgate.runtime.EXPLAIN_SECONDS", 0.0)
    monkeypatch.setattr("llmgate.routing.rivals.SPACING", 0.0)


async def policies(served: Served) -> dict[str, dict[str, Any]]:
    answer = await served.admin.get("/api/policies")
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["policies"]}


async def test_policies_that_differ_are_told_apart() -> None:
    """One session stays where it is; taking turns would send each second request elsewhere."""
    async with FakeEngine([completion()]) as a, FakeEngine([completion()]) as b, serving(a, b, router=ROUTER) as served:
        for _ in range(8):
            assert (await served.chat(x_session_id="one")).status_code == 200
        assert {len(a.asked), len(b.asked)} == {0, 8}
        answer = (await served.admin.get("/api/policies")).json()
        found = await policies(served)
    assert answer["decisions"] == 8
    assert 0 < answer["since"] < 60
    assert answer["policies"][0]["name"] == "session-affinity"
    assert [name for name, each in found.items() if each["active"]] == ["session-affinity"]
    assert found.keys() == registry.BUILT_IN.keys()
    assert (found["session-affinity"]["same_choice"], found["session-affinity"]["busiest_share"]) == (1.0, 1.0)
    assert found["round-robin"]["decisions"] == 8
    assert found["round-robin"]["same_choice"] <= 0.25  # it would always take the other, once there was a first
    for name in ("expected-latency", "prefix-affinity"):
        assert "does not look at prompts" in found[name]["note"]
        assert (found[name]["decisions"], found[name]["expected_ttft"]) == (0, None)


async def test_the_default_policy_is_compared_with_all_that_it_can_be() -> None:
    router = {"policy": "expected-latency"}
    async with FakeEngine([completion()]) as engine, serving(engine, router=router) as served:
        await served.chat()
        found = await policies(served)
        assert await served.metric('llmgate_shadow_decisions_total{policy="expected-latency",same="true"}') == 1
        assert await served.metric('llmgate_shadow_decisions_total{policy="random",same="true"}') == 1
        assert await served.metric('llmgate_shadow_expected_ttft_seconds_total{policy="random"}') > 0
    assert {name for name, each in found.items() if not each["decisions"]} == {"session-affinity"}
    assert "without an access log" in found["session-affinity"]["note"]
    assert all(each["same_choice"] == 1.0 for each in found.values() if each["decisions"])
    assert all(each["expected_e2e"] >= each["expected_ttft"] > 0 for each in found.values() if each["decisions"])


async def test_requests_that_end_in_any_way_leave_nothing_behind() -> None:
    router = {"policy": "expected-latency"}
    async with FakeEngine([completion()]) as a, serving(a, router=router) as served:
        await served.chat(HELLO | {"model": "none"})
        await served.chat(b"{")
        await served.chat()
        comparison = served.gateway.scheduler.comparison
        assert comparison is not None
        assert comparison.decisions == 1


async def test_it_can_be_switched_off() -> None:
    router = {"policy": "expected-latency", "compare": False}
    async with FakeEngine([completion()]) as engine, serving(engine, router=router) as served:
        await served.chat()
        refused = await served.admin.get("/api/policies")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert "router.compare" in refused.json()["error"]["message"]
        assert "llmgate_shadow" not in (await served.client.get("/metrics")).text
