from __future__ import annotations

import pytest

from llmgate.core.health import HealthPolicy
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointSpec, Verdict
from tests.core.make import pool


def names(made: EndpointPool, model: str = "m", now: float = 0.0) -> list[str]:
    return [each.name for each in made.ready(model, now)]


def test_an_endpoint_takes_no_work_before_its_first_good_probe() -> None:
    made = pool(2, up=False)
    assert names(made) == []
    next(iter(made)).health.probe_passed()
    assert names(made) == ["e0"]


def test_the_ready_tuple_is_rebuilt_only_after_a_change() -> None:
    made = pool(3)
    first = made.ready("m", 0.0)
    assert made.ready("m", 1.0) is first
    made.set_draining(first[1], True)
    assert names(made) == ["e0", "e2"]
    made.set_draining(first[1], False)
    assert names(made) == ["e0", "e1", "e2"]


def test_draining_is_not_unhealthy() -> None:
    made = pool(1)
    only = next(iter(made))
    made.set_draining(only, True)
    assert only.health.available
    assert names(made) == []


def test_an_ejection_that_is_over_lets_one_request_in() -> None:
    made = pool(2)
    sick = made.ready("m", 0.0)[0]
    for _ in range(3):
        sick.health.request_ended(Verdict.BAD, 5.0, trial=0)
    assert names(made, now=34.9) == ["e1"]
    assert names(made, now=35.0) == ["e0", "e1"]
    sick.health.begin_request()
    assert names(made, now=35.0) == ["e1"]


def test_endpoints_ejected_for_bad_answers_serve_when_nothing_else_is_left() -> None:
    made = pool(2)
    for each in made:
        for _ in range(3):
            each.health.request_ended(Verdict.BAD, 0.0, trial=0)
    assert names(made) == ["e0", "e1"]


def test_unreachable_endpoints_are_no_last_resort() -> None:
    made = pool(1)
    next(iter(made)).health.request_ended(Verdict.UNREACHABLE, 0.0, trial=0)
    assert names(made) == []


def test_models_are_what_endpoints_serve() -> None:
    made = EndpointPool(
        [EndpointSpec("a", "http://a", models={"big": "big"}), EndpointSpec("b", "http://b")],
        aliases={"gpt-4o": "big", "dead": "nowhere"},
    )
    assert made.models == ["big"]
    b = made.get("b")
    assert b is not None
    made.set_models(b, {"small": "small", "big": "big"})
    assert made.models == ["big", "small"]
    assert made.resolve("gpt-4o") == "big"
    assert made.resolve("small") == "small"
    assert made.resolve("dead") is None
    assert made.resolve("invented") is None


def test_names_that_clients_invent_leave_no_trace() -> None:
    made = pool(1)
    for number in range(1000):
        made.ready(f"invented-{number}", 0.0)
    assert len(made._ready) == 0


def test_two_endpoints_cannot_share_a_name() -> None:
    made = pool(1)
    with pytest.raises(ValueError, match="two endpoints named 'e0'"):
        made.add(EndpointSpec("e0", "http://elsewhere"))


def test_a_removed_endpoints_slot_is_used_again_and_its_load_is_not() -> None:
    made = pool(3)
    gone = made.remove("e1")
    assert gone is not None
    gone.load.requests = 7
    again = made.add(EndpointSpec("e1", "http://e1", models={"m": "m"}))
    assert again.slot == gone.slot
    assert again.load.requests == 0
    assert made.remove("never-there") is None


def test_recently_booked_tokens_fade_by_a_factor_of_e_a_minute() -> None:
    made = pool(1)
    only = made.ready("m", 100.0)[0]
    only.load.recent_tokens = 1000.0
    for tenth in range(1, 601):
        made.ready("m", 100.0 + tenth / 10)
    assert only.load.recent_tokens == pytest.approx(1000 / 2.718281828, rel=0.02)
    made.ready("m", 86_400.0)
    assert only.load.recent_tokens == pytest.approx(0.0)


def test_an_updated_member_keeps_its_load_and_health_and_has_the_rest_anew() -> None:
    members = pool(2)
    endpoint = members.get("e0")
    assert endpoint is not None
    load, health = endpoint.load, endpoint.health
    endpoint.load.requests = 3
    members.update(endpoint, EndpointSpec("e0", "http://e0", 2.5, "vllm", models={"other": "o"}))
    assert (endpoint.weight, endpoint.engine, endpoint.models) == (2.5, "vllm", {"other": "o"})
    assert (endpoint.load, endpoint.health, endpoint.load.requests) == (load, health, 3)
    assert members.ready("other", 0.0) == (endpoint,)
    assert endpoint not in members.ready("m", 0.0)
    members.update(endpoint, EndpointSpec("e0", "http://e0"))  # learnt from now on: until then what is known
    assert (endpoint.weight, endpoint.engine, endpoint.models) == (1.0, "vllm", {"other": "o"})


def test_aliases_can_be_replaced() -> None:
    members = pool(1)
    members.set_aliases({"alias": "m"})
    assert members.resolve("alias") == "m"
    members.set_aliases({})
    assert members.resolve("alias") is None


def test_other_thresholds_hold_for_members_of_now_and_later() -> None:
    members = pool(1)
    members.set_health_policy(HealthPolicy(strikes=1))
    later = members.add(EndpointSpec("later", "http://later", models={"m": "m"}))
    later.health.probe_passed()
    for endpoint in members:
        endpoint.health.request_ended(Verdict.BAD, 0.0, trial=0)
        assert not endpoint.health.available


def test_slow_start_that_is_switched_off_leaves_no_partial_weight() -> None:
    slow = HealthPolicy(slow_start=30.0)
    made = EndpointPool([EndpointSpec("a", "http://a", models={"m": "m"})], health=slow)
    (warm,) = made
    warm.health.probe_passed()
    made.ready("m", 0.0)
    made.ready("m", 100.0)
    late = made.add(EndpointSpec("b", "http://b", models={"m": "m"}))
    late.health.probe_passed()
    made.refresh(101.0)
    assert late.weight < 0.2
    made.set_health_policy(HealthPolicy())
    assert (warm.weight, late.weight) == (1.0, 1.0)
