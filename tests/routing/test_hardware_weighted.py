from __future__ import annotations

import heapq
from collections import Counter
from random import Random

import pytest

from llmgate.core.hardware import prior_weight
from llmgate.core.ledger import Charge
from llmgate.core.pool import EndpointPool
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointSpec, TerminationCause
from llmgate.routing.hardware_weighted import HardwareWeighted
from tests.core.make import request

FLEET = {"B200": 1, "H100": 1, "A100-80GB": 2, "A100-40GB": 1, "L4": 4}


def fleet() -> EndpointPool:
    made = EndpointPool(
        [
            EndpointSpec(name, f"http://{name.lower()}", prior_weight(name, count) or 0.0, models={"m": "m"})
            for name, count in FLEET.items()
        ]
    )
    for each in made:
        each.health.probe_passed()
    return made


def near(counts: Counter[str], weights: dict[str, float]) -> None:
    """Each share within 5 % of its weight's."""
    for name, weight in weights.items():
        assert counts[name] / counts.total() == pytest.approx(weight / sum(weights.values()), rel=0.05), (name, counts)


def test_the_tokens_in_flight_follow_the_weights() -> None:
    scheduler, random = Scheduler(fleet(), HardwareWeighted()), Random(0)
    tokens: Counter[str] = Counter()
    for _ in range(5000):
        asked = request(int(random.lognormvariate(6, 1)) + 1, random.randrange(1, 500))
        decision = scheduler.schedule(asked, 0.0)
        scheduler.book(asked, decision, 0.0)
        tokens[decision.endpoint.name] += asked.tokens
    near(tokens, {each.name: each.weight for each in scheduler.pool})


def test_under_load_the_tokens_served_follow_the_weights_of_engines_that_are_as_fast_as_these_say() -> None:
    """Each engine works through its tokens one request after another; there are always 200 requests."""
    scheduler, random = Scheduler(fleet(), HardwareWeighted()), Random(0)
    free_at = {each.name: 0.0 for each in scheduler.pool}
    running: list[tuple[float, int, Charge]] = []
    tokens: Counter[str] = Counter()
    now = 0.0
    for number in range(8000):
        if number >= 200:
            now, _, charge = heapq.heappop(running)
            scheduler.settle(charge, TerminationCause.COMPLETED, now)
        asked = request(int(random.lognormvariate(6, 1)) + 1, random.randrange(1, 500))
        decision = scheduler.schedule(asked, now)
        name = decision.endpoint.name
        tokens[name] += asked.tokens
        free_at[name] = max(free_at[name], now) + asked.tokens / (1000.0 * decision.endpoint.weight)
        heapq.heappush(running, (free_at[name], number, scheduler.book(asked, decision, now)))
    near(tokens, {each.name: each.weight for each in scheduler.pool})


def test_a_request_that_is_alone_goes_where_it_is_done_soonest() -> None:
    scheduler = Scheduler(fleet(), HardwareWeighted())
    assert {scheduler.schedule(request(), 0.0).endpoint.name for _ in range(20)} == {"B200"}
