from __future__ import annotations

from collections import Counter
from itertools import pairwise

from llmgate.core.scheduler import Scheduler
from llmgate.routing.random_choice import RandomChoice
from tests.core.make import pool, request
from tests.routing.test_policies import send


def test_each_endpoint_gets_its_share_of_the_weight_by_chance() -> None:
    scheduler = Scheduler(pool(3, e0=6.0, e1=3.0), RandomChoice(), seed=1)
    order = [send(scheduler, request()) for _ in range(10_000)]
    counts = Counter(order)
    for name, share in {"e0": 0.6, "e1": 0.3, "e2": 0.1}.items():
        assert abs(counts[name] / len(order) - share) < 0.02, counts
    repeated = sum(a == b for a, b in pairwise(order))
    assert abs(repeated / len(order) - (0.36 + 0.09 + 0.01)) < 0.03, "one draw says nothing about the next"


def test_it_is_blind_to_load() -> None:
    scheduler = Scheduler(pool(2), RandomChoice(), seed=1)
    busy = next(iter(scheduler.pool))
    scheduler.ledger.book(request(1_000_000), busy, 0.0)
    counts = Counter(send(scheduler, request()) for _ in range(2000))
    assert 900 <= counts[busy.name] <= 1100


def test_the_seed_of_the_scheduler_decides() -> None:
    def run(seed: int) -> list[str]:
        scheduler = Scheduler(pool(4), RandomChoice(), seed=seed)
        return [send(scheduler, request()) for _ in range(50)]

    assert run(1) == run(1)
    assert run(1) != run(2)
