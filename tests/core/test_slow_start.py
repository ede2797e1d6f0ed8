"""Slow start: an endpoint that begins to take requests counts for little at first, compared with those at work."""

from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.health import HealthPolicy
from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec, Verdict
from llmgate.routing import registry
from tests.core.make import request
from tests.routing.test_policies import start


def pool(count: int = 2, *, slow_start: float = 30.0, up: bool = True, models: str = "m") -> EndpointPool:
    made = EndpointPool(
        [
            EndpointSpec(f"e{number}", f"http://e{number}", 2.0, models={model: model for model in models})
            for number in range(count)
        ],
        health=HealthPolicy(slow_start=slow_start),
    )
    if up:
        for each in made:
            each.health.probe_passed()
    return made


def weights(made: EndpointPool, now: float, model: str = "m") -> dict[str, float]:
    made.ready(model, now)
    return {each.name: each.weight for each in made}


def get(made: EndpointPool, name: str) -> Endpoint:
    found = made.get(name)
    assert found is not None
    return found


def restart(endpoint: Endpoint) -> None:
    endpoint.health.probe_failed("gone", certain=True)
    endpoint.health.probe_passed()
    endpoint.health.probe_passed()


def test_endpoints_that_come_up_together_have_their_whole_weight_at_once() -> None:
    made = pool(3)
    for now in (0.0, 1.0, 15.0, 100.0):
        assert set(weights(made, now).values()) == {2.0}


def test_one_that_comes_up_alone_has_its_whole_weight() -> None:
    made = pool(2, up=False)
    get(made, "e0").health.probe_passed()
    assert weights(made, 0.0)["e0"] == 2.0
    assert weights(made, 5.0)["e0"] == 2.0


def test_one_that_comes_later_grows_from_a_tenth_to_the_whole_in_the_time_of_a_slow_start() -> None:
    made = pool(1)
    weights(made, 0.0)
    late = made.add(EndpointSpec("late", "http://late", 2.0, models={"m": "m"}))
    late.health.probe_passed()
    grown = [weights(made, 100.0 + second)["late"] for second in (0, 2, 6, 15, 29, 30, 1000)]
    assert grown == pytest.approx([0.2, 0.2, 0.4, 1.0, 2 * 29 / 30, 2.0, 2.0])
    assert weights(made, 1000.0)["e0"] == 2.0


def test_at_a_gateways_start_what_counts_is_how_much_longer_others_have_been_there() -> None:
    made = pool(2, up=False)
    get(made, "e0").health.probe_passed()
    weights(made, 0.0)
    get(made, "e1").health.probe_passed()
    assert weights(made, 6.0) == pytest.approx({"e0": 2.0, "e1": 2.0 * 0.1 / 0.2})
    assert weights(made, 12.0) == pytest.approx({"e0": 2.0, "e1": 2.0 * 0.2 / 0.4})
    assert weights(made, 36.0) == {"e0": 2.0, "e1": 2.0}


@pytest.mark.parametrize("how", ["restarted", "undrained", "passed its trial"])
def test_it_begins_anew_whenever_an_endpoint_takes_requests_again(how: str) -> None:
    made = pool(2)
    weights(made, 0.0)
    assert weights(made, 50.0)["e1"] == 2.0
    one = get(made, "e1")
    if how == "restarted":
        restart(one)  # between two ticks: nobody asked while it was down
    elif how == "undrained":
        made.set_draining(one, True)
        made.set_draining(one, False)
    else:
        for _ in range(3):
            one.health.request_ended(Verdict.BAD, 20.0, trial=0)
        made.ready("m", 50.0)
        trial = one.health.begin_request()
        assert trial
        one.health.request_ended(Verdict.GOOD, 50.0, trial=trial)
    assert weights(made, 51.0) == pytest.approx({"e0": 2.0, "e1": 0.2})
    assert weights(made, 66.0) == pytest.approx({"e0": 2.0, "e1": 1.0})


def test_all_restarted_are_equals_again() -> None:
    made = pool(2)
    weights(made, 0.0)
    for each in made:
        restart(each)
    assert weights(made, 100.0) == {"e0": 2.0, "e1": 2.0}


def test_each_model_has_its_own_measure() -> None:
    made = pool(2, models="a")
    weights(made, 0.0, "a")
    only = made.add(EndpointSpec("only", "http://only", 2.0, models={"b": "b"}))
    only.health.probe_passed()
    assert weights(made, 100.0, "b")["only"] == 2.0


def test_an_endpoint_of_two_models_is_measured_by_those_at_work_on_either() -> None:
    made = pool(1, models="a")
    weights(made, 0.0, "a")
    both = made.add(EndpointSpec("both", "http://both", 2.0, models={"a": "a", "b": "b"}))
    both.health.probe_passed()
    assert weights(made, 100.0, "b")["both"] == pytest.approx(0.2)


def test_without_a_slow_start_the_weight_is_whole_at_once() -> None:
    made = pool(2, slow_start=0.0)
    weights(made, 0.0)
    restart(get(made, "e1"))
    assert weights(made, 100.0)["e1"] == 2.0


def test_a_removed_endpoint_leaves_nothing_behind() -> None:
    made = pool(2)
    weights(made, 0.0)
    made.remove("e0")
    made.remove("e1")
    assert not made._serving


@pytest.mark.parametrize("name", [*registry.BUILT_IN])
def test_every_policy_sends_less_to_an_endpoint_that_starts_slowly(name: str) -> None:
    def share_of_the_new(router: Router) -> float:
        made = pool(4)
        scheduler = Scheduler(made, router, seed=1)
        weights(made, 0.0)
        restart(get(made, "e3"))
        asked = request(100, 50)
        counts = Counter(start(scheduler, asked, 1000.0) for _ in range(600))
        return counts["e3"] / 600

    assert 0.01 <= share_of_the_new(registry.create(name)) <= 0.1  # 0.1 of 3.1 is 0.03
