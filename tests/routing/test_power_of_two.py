from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.scheduler import Scheduler
from llmgate.routing.limits import LAST_RESORT
from llmgate.routing.power_of_two import PowerOfTwo, two_of
from tests.core.make import pool, request
from tests.routing.test_policies import start


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=50), st.integers())
def test_two_different_ones_are_drawn(weights: list[float], seed: int) -> None:
    first, second = two_of(weights, Random(seed))
    assert first != second
    assert {first, second} <= set(range(len(weights)))


def test_they_are_drawn_by_weight() -> None:
    random, rounds = Random(0), 20_000
    firsts: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for _ in range(rounds):
        pair = two_of([5.0, 3.0, 2.0], random)
        firsts[pair[0]] += 1
        pairs[pair] += 1
    for index, share in enumerate([0.5, 0.3, 0.2]):
        assert abs(firsts[index] / rounds - share) < 0.02
    assert abs(pairs[0, 1] / firsts[0] - 3 / 5) < 0.02, "the second by what is left"
    assert abs(pairs[1, 2] / firsts[1] - 2 / 7) < 0.02


def test_of_two_endpoints_the_one_with_less_to_do_for_its_weight_is_taken() -> None:
    scheduler = Scheduler(pool(2, e0=3.0), PowerOfTwo())
    assert Counter(start(scheduler, request()) for _ in range(400))["e0"] in range(298, 303)


def test_one_of_many_that_is_overloaded_is_taken_only_beside_a_worse_one() -> None:
    scheduler = Scheduler(pool(5), PowerOfTwo())
    bad, *_ = scheduler.pool
    scheduler.ledger.book(request(1_000_000), bad, 0.0)
    for _ in range(300):
        decision = scheduler.schedule(request(), 0.0)
        drawn = [cost for cost in decision.costs if cost < LAST_RESORT]
        assert len(drawn) == 2
        assert decision.endpoint is not bad


def test_load_stays_nearly_even_and_weights_beyond_two_of_n_are_reached() -> None:
    scheduler = Scheduler(pool(10), PowerOfTwo(), seed=3)
    counts = Counter(start(scheduler, request()) for _ in range(2000))
    assert max(counts.values()) - min(counts.values()) <= 12, counts
    scheduler = Scheduler(pool(4, e0=9.0), PowerOfTwo(), seed=3)
    counts = Counter(start(scheduler, request()) for _ in range(2000))
    assert abs(counts["e0"] / 2000 - 0.75) < 0.02, counts
