"""Where exactly weights, margins, bounds, readings and options turn a choice, by each policy's documentation."""

from __future__ import annotations

from collections import Counter

import pytest

from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointMetrics
from llmgate.routing import registry
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.routing.token_aware import TokenAware
from tests.core.make import pool, request
from tests.routing.test_policies import prompt, send, start

NOW = 10_000.0
"""So late that what was booked at 0 has faded."""


class Scene:
    """Endpoints e0, e1 … that were sent prompts at 0 and have work ahead at NOW."""

    def __init__(self, router: Router, endpoints: EndpointPool) -> None:
        self.scheduler = Scheduler(endpoints, router)

    def __getitem__(self, name: str) -> Endpoint:
        endpoint = self.scheduler.pool.get(name)
        assert endpoint is not None
        return endpoint

    def has_seen(self, name: str, *blocks: int) -> None:
        others = [each for each in self.scheduler.pool if each.name != name]
        for each in others:
            self.scheduler.pool.set_draining(each, True)
        assert send(self.scheduler, prompt(*blocks), 0.0) == name
        for each in others:
            self.scheduler.pool.set_draining(each, False)
        self.scheduler.schedule(request(), NOW)  # lets it fade

    def burden(self, name: str, tokens: int, recent: float = 0.0) -> None:
        """Work in flight; `recent` instead of these tokens counts as booked lately."""
        self.scheduler.ledger.book(request(tokens, 0), self[name], NOW)
        self[name].load.recent_tokens = recent

    def choice(self, *blocks: int) -> str:
        asked = prompt(*blocks) if blocks else request(100, 0)
        return self.scheduler.schedule(asked, NOW).endpoint.name


@pytest.mark.parametrize("name", [name for name in registry.BUILT_IN if name not in ("round-robin", "random")])
def test_work_in_flight_is_shared_out_by_weight(name: str) -> None:
    scheduler = Scheduler(pool(2, e0=3.0), registry.create(name))
    counts = Counter(start(scheduler, request(), NOW) for _ in range(400))
    assert 290 <= counts["e0"] <= 310, counts


# token-aware -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "choice"), [(10_100, "e1"), (10_190, "e1"), (10_220, "e0")])
def test_token_aware_calls_costs_equal_that_are_within_two_percent(ahead: int, choice: str) -> None:
    scene = Scene(TokenAware(), pool(2))
    scene.burden("e0", 10_000, recent=1e6)
    scene.burden("e1", ahead)
    assert scene.choice() == choice


# prefix-affinity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "choice"), [(1400, "e1"), (1600, "e0")])
def test_half_more_than_the_least_load_is_borne_for_any_match(more: int, choice: str) -> None:
    scene = Scene(PrefixAffinity(patience=0.0), pool(2))
    scene.has_seen("e1", 1)
    scene.burden("e0", 1000)
    scene.burden("e1", more)
    assert scene.choice(1, 2) == choice


@pytest.mark.parametrize(("more", "choice"), [(4 * 1024 - 10, "e1"), (4 * 1024 + 10, "e0")])
def test_four_tokens_of_load_are_borne_for_each_token_that_is_saved(more: int, choice: str) -> None:
    scene = Scene(PrefixAffinity(), pool(2))
    scene.has_seen("e1", *range(16))
    scene.burden("e1", more)
    assert scene.choice(*range(16)) == choice


@pytest.mark.parametrize(("more", "choice"), [(4 * 64 - 10, "e1"), (4 * 64 + 10, "e0")])
def test_what_the_least_loaded_endpoint_holds_itself_is_not_saved(more: int, choice: str) -> None:
    scene = Scene(PrefixAffinity(), pool(2))
    scene.has_seen("e0", *range(15))
    scene.has_seen("e1", *range(16))
    scene.burden("e1", more)
    assert scene.choice(*range(16)) == choice


def test_an_idle_endpoint_without_room_is_no_measure_for_those_with_room() -> None:
    scene = Scene(PrefixAffinity(), pool(3))
    scene.has_seen("e2", 1)
    scene["e0"].metrics = EndpointMetrics(at=NOW, kv_usage=0.95)
    scene.burden("e1", 1000)
    scene.burden("e2", 1400)
    assert scene.choice(1, 2) == "e2"


@pytest.mark.parametrize(("age", "choice"), [(4.0, "e0"), (6.0, "e1")])
def test_an_old_reading_of_a_full_cache_is_unknown(age: float, choice: str) -> None:
    scene = Scene(PrefixAffinity(), pool(2))
    scene.has_seen("e1", *range(16))
    scene["e1"].metrics = EndpointMetrics(at=NOW - age, kv_usage=0.95)
    assert scene.choice(*range(16)) == choice


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_prefix_affinity_measures_load_by_weight(weight: float) -> None:
    scene = Scene(PrefixAffinity(), pool(2, e1=weight))
    scene.has_seen("e1", *range(16))
    scene.burden("e1", 4 * 1024)
    assert scene.choice(*range(16)) == ("e1" if weight > 1 else "e0")


# options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "option", "lower", "higher"),
    [
        ("token-aware", "kv_limit", 0.5, 0.7),
        ("token-aware", "tie_margin", 0.0, 0.9),
        ("prefix-affinity", "relative", 0.1, 9.0),
        ("prefix-affinity", "patience", 0.1, 9.0),
        ("prefix-affinity", "capacity_share", 0.5, 0.7),
    ],
)
def test_each_option_turns_a_choice(policy: str, option: str, lower: float, higher: float) -> None:
    def choice(value: float) -> str:
        scene = Scene(registry.create(policy, {option: value}), pool(2))
        scene.has_seen("e1", *range(16))
        if option in ("kv_limit", "capacity_share"):
            scene["e1"].metrics = EndpointMetrics(at=NOW, kv_usage=0.6)
            scene.burden("e0", 200)
        else:
            scene.burden("e0", 1000, recent=0.0 if policy == "prefix-affinity" else 1e6)
            scene.burden("e1", 1800 if policy == "token-aware" else 5500)
        return scene.choice(*range(16))

    assert [choice(lower), choice(higher)] == ["e0", "e1"]
