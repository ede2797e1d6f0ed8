from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Candidates, Filter, Scorer
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, EndpointSpec, InferenceRequest, TerminationCause, Usage, Verdict
from llmgate.routing import registry
from llmgate.routing.limits import LAST_RESORT
from llmgate.routing.pickers import MaxPicker, WeightedRandomPicker
from llmgate.routing.profile import Profile
from llmgate.testing import check_router
from tests.core.make import pool, request
from tests.routing.test_policies import SYSTEM, prompt, send, start


def filters(*named: str | tuple[str, dict[str, Any]]) -> list[Filter]:
    return [
        registry.FILTERS.create(*each) if isinstance(each, tuple) else registry.FILTERS.create(each) for each in named
    ]


def scorers(**weights: float) -> list[tuple[Scorer, float]]:
    return [(registry.SCORERS.create(name.replace("_", "-")), weight) for name, weight in weights.items()]


class Given(Scorer):
    """Scores by endpoint name."""

    def __init__(self, **scores: float) -> None:
        self.scores = scores

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.scores[each.name] for each in candidates.endpoints]


class Only(Filter):
    def __init__(self, *names: str) -> None:
        self.names = names

    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        return [each.name in self.names for each in candidates.endpoints]


def costs(scheduler: Scheduler, now: float = 0.0) -> dict[str, float]:
    decision = scheduler.schedule(request(), now)
    return dict(zip((each.name for each in decision.candidates.endpoints), decision.costs, strict=True))


@pytest.mark.parametrize("picker", registry.PICKERS.built_in)
@pytest.mark.parametrize("scorer", registry.SCORERS.built_in)
def test_any_composition_keeps_the_schedulers_contract(scorer: str, picker: str) -> None:
    def make() -> Profile:
        return Profile(
            filters("kv-room", "short-queue", "load-within", ("labels", {"labels": {"zone": "a"}})),
            [(registry.SCORERS.create(scorer), 2.0), (registry.SCORERS.create("load"), 1.0)],
            registry.PICKERS.create(picker),
        )

    check_router(make)


def test_the_weighted_mean_decides() -> None:
    both = [(Given(e0=1.0, e1=0.2), 1.0), (Given(e0=0.0, e1=0.6), 3.0)]
    found = costs(Scheduler(pool(2), Profile([], both, MaxPicker())))
    assert found == pytest.approx({"e0": 1 - 0.25, "e1": 1 - 0.5})


@pytest.mark.parametrize(("score", "counts_as"), [(7.0, 1.0), (-7.0, 0.0), (float("nan"), 0.0), (float("inf"), 1.0)])
def test_a_score_out_of_range_counts_as_the_nearest(score: float, counts_as: float) -> None:
    scheduler = Scheduler(pool(2), Profile([], [(Given(e0=score, e1=0.5), 1.0)], MaxPicker()))
    assert costs(scheduler) == pytest.approx({"e0": 1 - counts_as, "e1": 0.5})


def test_filters_work_on_what_those_before_them_left() -> None:
    each = Given(e0=1.0, e1=0.5, e2=0.1)
    scheduler = Scheduler(pool(3), Profile([Only("e1", "e2"), Only("e0", "e2")], [(each, 1.0)], MaxPicker()))
    assert scheduler.schedule(request(), 0.0).endpoint.name == "e2"
    assert costs(scheduler) == pytest.approx({"e0": LAST_RESORT, "e1": LAST_RESORT, "e2": 0.9})


def test_a_filter_that_would_leave_nothing_has_no_effect() -> None:
    each = Given(e0=0.1, e1=0.5)
    scheduler = Scheduler(pool(2), Profile([Only(), Only("e0")], [(each, 1.0)], MaxPicker()))
    assert scheduler.schedule(request(), 0.0).endpoint.name == "e0"


def test_a_third_party_filter_that_is_away_for_a_retry_is_asked_again() -> None:
    scheduler = Scheduler(pool(2), Profile([Only("e0")], [(Given(e0=0.1, e1=0.5), 1.0)], MaxPicker()))
    tried = [scheduler.schedule(request(), 0.0).endpoint]
    assert scheduler.schedule(request(), 0.0, tried).endpoint.name == "e1"


def test_chance_may_pick_by_score() -> None:
    each = Given(e0=0.6, e1=0.3, e2=0.0)
    scheduler = Scheduler(pool(3), Profile([], [(each, 1.0)], WeightedRandomPicker()), seed=1)
    counts = Counter(send(scheduler, request()) for _ in range(6000))
    assert abs(counts["e0"] / 6000 - 2 / 3) < 0.02
    assert counts["e2"] == 0


def test_a_profile_asks_for_what_its_parts_ask_for() -> None:
    plain = Profile([], scorers(load=1), MaxPicker())
    assert not plain.needs_prefix
    assert not plain.needs_session
    full = Profile([], scorers(prefix=1, session=1), MaxPicker())
    assert full.needs_prefix
    assert full.needs_session


def test_its_parts_hear_of_everything() -> None:
    scheduler = Scheduler(pool(2), Profile([], scorers(latency=1, session=1), MaxPicker()))
    asked = request()
    asked.session = "s"
    decision = scheduler.schedule(asked, 0.0)
    home = decision.endpoint
    scheduler.settle(
        scheduler.book(asked, decision, 0.0), TerminationCause.COMPLETED, 1.0, verdict=Verdict.GOOD, usage=Usage(1, 100)
    )
    assert {scheduler.schedule(asked, 1.0).endpoint for _ in range(9)} == {home}
    scheduler.remove(home.name)
    assert scheduler.schedule(asked, 1.0).endpoint is not home


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")]])
def test_without_a_weight_there_is_no_profile(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="a scorer with a weight above 0"):
        Profile([], [(Given(), weight) for weight in weights], MaxPicker())


# The built-in filters ------------------------------------------------------------------------------------------------


def choice(scheduler: Scheduler, now: float = 0.0) -> str:
    return scheduler.schedule(request(), now).endpoint.name


def best_first(count: int, *named: str | tuple[str, dict[str, Any]]) -> Scheduler:
    """e0 is chosen unless a filter keeps it out."""
    scores = {f"e{number}": 1.0 - number / 10 for number in range(count)}
    return Scheduler(pool(count), Profile(filters(*named), [(Given(**scores), 1.0)], MaxPicker()))


@pytest.mark.parametrize(("usage", "age", "chosen"), [(0.9, 0.0, "e0"), (0.91, 0.0, "e1"), (0.99, 6.0, "e0")])
def test_kv_room_leaves_out_full_caches(usage: float, age: float, chosen: str) -> None:
    scheduler = best_first(2, "kv-room")
    next(iter(scheduler.pool)).metrics = EndpointMetrics(at=-age, kv_usage=usage)
    assert choice(scheduler) == chosen


@pytest.mark.parametrize(("waiting", "age", "chosen"), [(5, 0, "e0"), (6, 0, "e1"), (6, 6, "e0"), (None, 0, "e0")])
def test_short_queue_leaves_out_long_ones(waiting: int | None, age: float, chosen: str) -> None:
    scheduler = best_first(2, "short-queue")
    next(iter(scheduler.pool)).metrics = EndpointMetrics(at=-age, waiting=waiting)
    assert choice(scheduler) == chosen


@pytest.mark.parametrize(("tokens", "chosen"), [(5596, "e0"), (5597, "e1")])
def test_load_within_leaves_out_the_busier_ones(tokens: int, chosen: str) -> None:
    scheduler = best_first(2, "load-within")
    busy, other = scheduler.pool
    scheduler.ledger.book(request(tokens, 0), busy, 0.0)
    scheduler.ledger.book(request(1000, 0), other, 0.0)
    assert choice(scheduler) == chosen


def test_labels_keep_those_that_have_them_all() -> None:
    made = EndpointPool(
        [
            EndpointSpec("e0", "http://e0", models={"m": "m"}, labels={"zone": "a"}),
            EndpointSpec("e1", "http://e1", models={"m": "m"}, labels={"zone": "a", "tier": "fast", "spot": "true"}),
            EndpointSpec("e2", "http://e2", models={"m": "m"}, labels={"zone": "b", "tier": "fast"}),
        ]
    )
    for each in made:
        each.health.probe_passed()
    kept = filters(("labels", {"labels": {"zone": "a", "tier": "fast"}}))
    scheduler = Scheduler(made, Profile(kept, [(Given(e0=1.0, e1=0.1, e2=1.0), 1.0)], MaxPicker()))
    assert choice(scheduler) == "e1"


# The built-in scorers ------------------------------------------------------------------------------------------------


def scores(name: str, scheduler: Scheduler, asked: InferenceRequest, cached: Sequence[int] = (0, 0)) -> list[float]:
    scorer = registry.SCORERS.create(name)
    return list(scorer.score(asked, Candidates(tuple(scheduler.pool), cached, 0.0)))


def two(*metrics: EndpointMetrics | None, e0: float = 1.0, e1: float = 1.0) -> Scheduler:
    scheduler = Scheduler(pool(2, e0=e0, e1=e1), registry.create("round-robin"))
    for each, reading in zip(scheduler.pool, metrics, strict=False):
        each.metrics = reading
    return scheduler


def test_prefix_is_the_part_that_is_cached() -> None:
    assert scores("prefix", two(), request(1000), (250, 1200)) == [0.25, 1.0]
    assert scores("prefix", two(), request(0)) == [0.0, 0.0]


def test_load_is_the_least_work_over_ones_own() -> None:
    scheduler = two(e1=2.0)
    first, second = scheduler.pool
    scheduler.ledger.book(request(200, 150), first, 0.0)
    assert scores("load", scheduler, request(100, 50)) == pytest.approx([75 / 500, 1.0])
    scheduler.ledger.book(request(850, 0), second, 0.0)
    assert scores("load", scheduler, request(100, 50)) == pytest.approx([1.0, 1.0])
    assert scores("requests", scheduler, request()) == pytest.approx([0.5, 1.0])
    first.load.recent_tokens, second.load.recent_tokens = 850.0, 350.0
    assert scores("recent", scheduler, request(100, 50)) == pytest.approx([0.25, 1.0])


def test_readings_are_used_while_they_are_fresh_and_unknown_is_the_mean_of_the_known() -> None:
    fresh, stale = EndpointMetrics(0.0, kv_usage=0.75, waiting=3), EndpointMetrics(-6.0, kv_usage=0.1, waiting=0)
    assert scores("kv-usage", two(fresh, stale), request()) == [0.25, 0.25]
    assert scores("queue", two(fresh, None, e0=3.0), request()) == [0.5, 0.5]
    assert scores("kv-usage", two(None, stale), request()) == [1.0, 1.0]
    other = EndpointMetrics(0.0, kv_usage=1.25)
    assert scores("kv-usage", two(fresh, other), request()) == [0.25, 0.0]
    assert scores("queue", two(fresh, other), request()) == [0.25, 0.25]


def test_prefix_load_and_recent_together_balance_a_prompt_that_all_share() -> None:
    composed = Profile([], scorers(prefix=1, load=1, recent=2), MaxPicker())
    for concurrent in (False, True):
        scheduler = Scheduler(pool(4), composed)
        use = start if concurrent else send
        counts = Counter(use(scheduler, prompt(*SYSTEM, 1000 + user), user * 0.01) for user in range(1000))
        assert all(200 <= count <= 300 for count in counts.values()), (concurrent, counts)
