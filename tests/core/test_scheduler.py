from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.errors import ModelNotFound, NoReadyEndpoint
from llmgate.core.estimate import byte_classes
from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import (
    Endpoint,
    EndpointMetrics,
    EndpointSpec,
    InferenceRequest,
    Kind,
    TerminationCause,
    Usage,
    Verdict,
)
from tests.core.make import pool, request, state


class Fixed(Router):
    """Costs by endpoint name; everything else is a tie at 0."""

    def __init__(self, **costs: float) -> None:
        self.costs = costs

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.costs.get(each.name, 0.0) for each in candidates.endpoints]


def serve(scheduler: Scheduler, asked: InferenceRequest, now: float = 0.0) -> str:
    decision = scheduler.schedule(asked, now)
    scheduler.settle(scheduler.book(asked, decision, now), TerminationCause.COMPLETED, now)
    return decision.endpoint.name


def test_the_lowest_cost_wins() -> None:
    scheduler = Scheduler(pool(3), Fixed(e0=3.0, e1=1.0, e2=2.0))
    decision = scheduler.schedule(request(), 0.0)
    assert decision.endpoint.name == "e1"
    assert [each.name for each in decision.ranking()] == ["e1", "e2", "e0"]


def test_endpoints_already_tried_are_not_chosen_again() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=1.0, e1=2.0))
    first = scheduler.schedule(request(), 0.0).endpoint
    assert scheduler.schedule(request(), 0.0, [first]).endpoint.name == "e1"
    with pytest.raises(NoReadyEndpoint):
        scheduler.schedule(request(), 0.0, list(scheduler.pool))


def test_ties_go_to_the_fewest_recently_booked_tokens() -> None:
    scheduler = Scheduler(pool(3), Fixed())
    big = serve(scheduler, request(10_000))
    assert big not in [serve(scheduler, request(10)) for _ in range(50)]


def test_ties_are_shared_out_by_weight() -> None:
    scheduler = Scheduler(pool(2, e0=3.0), Fixed())
    assert Counter(serve(scheduler, request()) for _ in range(400)) == {"e0": 300, "e1": 100}


def test_ties_among_the_unused_are_drawn_and_not_by_position() -> None:
    firsts = Counter(serve(Scheduler(pool(4), Fixed(), seed=seed), request()) for seed in range(400))
    assert set(firsts) == {"e0", "e1", "e2", "e3"}
    assert min(firsts.values()) > 60


def test_the_same_seed_gives_the_same_decisions() -> None:
    def run(seed: int) -> list[str]:
        scheduler = Scheduler(pool(4), Fixed(), seed=seed)
        return [serve(scheduler, request(), float(number)) for number in range(50)]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_near_ties_count_as_ties_within_the_policys_margin() -> None:
    router = Fixed(e0=1000.0, e1=1010.0, e2=1100.0)
    router.tie_margin = 0.02
    scheduler = Scheduler(pool(3), router)
    assert {serve(scheduler, request(), float(number)) for number in range(20)} == {"e0", "e1"}


def test_a_settled_charge_leaves_nothing_behind() -> None:
    scheduler = Scheduler(pool(2), Fixed())
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    assert charge.endpoint.load.requests == 1
    assert scheduler.settle(charge, TerminationCause.CLIENT_GONE, 1.0)
    assert not scheduler.settle(charge, TerminationCause.COMPLETED, 1.0)
    assert charge.endpoint.load.requests == charge.endpoint.load.tokens == scheduler.ledger.open_charges == 0


def test_a_half_open_endpoint_is_given_one_request_and_judged_by_it() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=0.0, e1=1.0))
    sick = scheduler.pool.get("e0")
    assert sick is not None
    for _ in range(3):
        asked = request()
        charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
        scheduler.settle(charge, TerminationCause.UPSTREAM_ERROR, 0.0, verdict=Verdict.BAD)
    assert state(sick.health) is State.EJECTED
    asked = request()
    trial = scheduler.book(asked, scheduler.schedule(asked, 31.0), 31.0)
    assert trial.endpoint is sick
    assert scheduler.schedule(request(), 31.0).endpoint.name == "e1"
    scheduler.settle(trial, TerminationCause.COMPLETED, 32.0, verdict=Verdict.GOOD)
    assert state(sick.health) is State.UP


def test_a_trial_is_passed_when_a_good_answer_begins() -> None:
    scheduler = Scheduler(pool(1), Fixed())
    (only,) = scheduler.pool
    for _ in range(3):
        only.health.request_ended(Verdict.BAD, 0.0, trial=0)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 31.0), 31.0)
    assert state(only.health) is State.HALF_OPEN
    scheduler.answered(charge, 32.0)
    assert state(only.health) is State.UP
    scheduler.settle(charge, TerminationCause.UPSTREAM_ERROR, 33.0, verdict=Verdict.BAD)
    assert state(only.health) is State.UP, "a break later on is one strike, like anybody's"


def test_unknown_models_and_unready_ones_are_told_apart() -> None:
    scheduler = Scheduler(pool(1), Fixed())
    assert scheduler.admit("m", 0.0) == "m"
    with pytest.raises(ModelNotFound):
        scheduler.admit("other", 0.0)
    scheduler.pool.set_draining(next(iter(scheduler.pool)), True)
    with pytest.raises(NoReadyEndpoint, match="`m`"):
        scheduler.admit("m", 0.0)
    with pytest.raises(NoReadyEndpoint, match="has come up"):
        Scheduler(EndpointPool(), Fixed()).admit("anything", 0.0)


def test_a_model_that_may_still_come_up_is_not_called_unknown() -> None:
    made = EndpointPool(
        [EndpointSpec("a", "http://a", models={"m": "m"}), EndpointSpec("b", "http://b")], aliases={"gpt": "later"}
    )
    scheduler = Scheduler(made, Fixed())
    for name in ("later", "gpt", "whatever b may serve"):
        with pytest.raises(NoReadyEndpoint, match="has come up"):
            scheduler.admit(name, 0.0)
    late = made.get("b")
    assert late is not None
    made.set_models(late, {"n": "n"})
    with pytest.raises(ModelNotFound):
        scheduler.admit("whatever b may serve", 0.0)
    with pytest.raises(NoReadyEndpoint):
        scheduler.admit("gpt", 0.0)


def test_an_endpoint_that_refused_is_passed_over_for_a_while_as_long_as_there_are_others() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=0.0, e1=1.0))
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    assert charge.endpoint.name == "e0"
    scheduler.settle(charge, TerminationCause.REFUSED, 10.0, busy_for=3.0)
    assert state(charge.endpoint.health) is State.UP
    assert scheduler.schedule(request(), 12.9).endpoint.name == "e1"
    assert scheduler.schedule(request(), 13.0).endpoint.name == "e0"
    other = scheduler.book(asked, scheduler.schedule(asked, 12.0), 12.0)
    scheduler.settle(other, TerminationCause.REFUSED, 12.0, busy_for=9.0)
    assert scheduler.schedule(request(), 12.5).endpoint.name == "e0", "when all are busy, none is left out"
    assert scheduler.schedule(request(), 12.5, tried=[charge.endpoint]).endpoint.name == "e1"


def test_a_router_that_fails_after_the_choice_leaves_nothing_booked() -> None:
    class Failing(Fixed):
        def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            raise ZeroDivisionError

    scheduler = Scheduler(pool(1), Failing())
    (only,) = scheduler.pool
    asked = request()
    with pytest.raises(ZeroDivisionError):
        scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    assert scheduler.ledger.open_charges == only.load.requests == only.load.tokens == only.load.kv_tokens == 0


def test_costs_that_are_all_infinite_are_a_tie() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=math.inf, e1=math.inf))
    assert {serve(scheduler, request(), float(number)) for number in range(20)} == {"e0", "e1"}


def test_a_match_looked_up_at_intake_is_used_once() -> None:
    router = Fixed()
    router.needs_prefix = True
    scheduler = Scheduler(pool(2), router)
    asked = request(100, prefix=(1, 2), size=512)
    asked.holders = scheduler.holders(asked.prefix)
    first = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.settle(first, TerminationCause.UPSTREAM_ERROR, 0.0)
    second = scheduler.schedule(asked, 0.0)
    held = dict(zip((each.name for each in second.candidates.endpoints), second.candidates.cached_tokens, strict=True))
    assert held.pop(first.endpoint.name) == 100
    assert set(held.values()) == {0}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=70), st.data())
def test_what_each_endpoint_holds_is_its_own_longest_match(depths: list[int], data: st.DataObject) -> None:
    router = Fixed()
    router.needs_prefix = True
    scheduler = Scheduler(pool(len(depths)), router)
    keys = tuple(range(1, 7))
    for each, depth in zip(scheduler.pool, depths, strict=True):
        others = [other for other in scheduler.pool if other is not each]
        if depth:
            asked = request(64 * depth, prefix=keys[:depth], size=256 * depth)
            scheduler.book(asked, scheduler.schedule(asked, 0.0, others), 0.0)
    left_out = data.draw(st.sets(st.sampled_from(list(scheduler.pool)), max_size=len(depths) - 1))
    decision = scheduler.schedule(request(64 * 6, prefix=keys, size=256 * 6), 0.0, left_out)
    held = {each.name: 64 * depth for each, depth in zip(scheduler.pool, depths, strict=True)}
    for each, cached in zip(decision.candidates.endpoints, decision.candidates.cached_tokens, strict=True):
        assert cached == held[each.name]


def test_the_output_expectation_is_learnt_from_completed_answers_only() -> None:
    scheduler = Scheduler(pool(1), Fixed())
    assert scheduler.expect_output("m", Kind.CHAT, None) == 1024
    assert 200 < scheduler.expect_output("m", Kind.CHAT, 300) < 300
    assert scheduler.expect_output("m", Kind.EMBEDDING, None) == 0
    for cause in (TerminationCause.CLIENT_GONE, *[TerminationCause.COMPLETED] * 60):
        asked = request()
        charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
        usage = Usage(100, 9000 if cause is TerminationCause.CLIENT_GONE else 40)
        scheduler.settle(charge, cause, 0.0, verdict=Verdict.GOOD, usage=usage)
    assert 30 <= scheduler.expect_output("m", Kind.CHAT, None) <= 60


@pytest.mark.parametrize(("counted", "learnt"), [(True, False), (False, True)])
def test_the_prompt_estimate_learns_from_engines_and_not_from_what_the_gateway_counted(
    counted: bool, learnt: bool
) -> None:
    scheduler = Scheduler(pool(1), Fixed())
    classes = byte_classes(b'[{"role": "user", "content": "one two three"}]')
    before = scheduler.knowledge("m").prompt.estimate(classes)
    asked = request()
    asked.byte_classes = classes
    for _ in range(20):
        charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
        usage = Usage(2 * before, 40, counted=counted)
        scheduler.settle(charge, TerminationCause.COMPLETED, 0.0, verdict=Verdict.GOOD, usage=usage)
    assert (scheduler.knowledge("m").prompt.estimate(classes) > before) == learnt


def test_the_router_hears_of_an_endpoint_that_is_removed() -> None:
    class Hearing(Fixed):
        def removed(self, endpoint: Endpoint) -> None:
            self.costs[endpoint.name] = -1.0

    router = Hearing()
    Scheduler(pool(2), router).remove("e1")
    assert router.costs == {"e1": -1.0}


def test_a_removed_endpoint_is_forgotten_everywhere() -> None:
    class Prefixed(Fixed):
        needs_prefix = True

    scheduler = Scheduler(pool(2), Prefixed(e0=0.0, e1=1.0))
    asked = request(prefix=(1, 2, 3), size=768)
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    assert scheduler.schedule(asked, 0.0).cached_tokens == 100
    scheduler.remove("e0")
    assert scheduler.schedule(asked, 0.0).candidates.cached_tokens == [0]
    assert scheduler.settle(charge, TerminationCause.COMPLETED, 1.0), "its open charge still settles"
    assert scheduler.ledger.open_charges == 0


@pytest.mark.parametrize(("verdict", "left"), [(Verdict.UNREACHABLE, 0), (Verdict.BAD, 100)])
def test_an_endpoint_that_takes_no_connection_has_lost_its_cache_and_no_other_has(verdict: Verdict, left: int) -> None:
    router = Fixed(e0=0.0, e1=1.0)
    scheduler = Scheduler(pool(2), router)
    asked = request(prefix=(1, 2, 3), size=768)
    serve(scheduler, asked)
    router.costs = {"e0": 1.0, "e1": 0.0}
    serve(scheduler, asked)
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.settle(charge, TerminationCause.UPSTREAM_ERROR, 0.0, verdict=verdict)
    e1 = charge.endpoint
    e1.health.probe_passed()
    e1.health.probe_passed()
    assert e1.health.state is State.UP
    assert scheduler.schedule(asked, 1.0).candidates.cached_tokens == [100, left]


def test_what_was_refused_by_a_removed_endpoint_says_nothing_of_who_has_its_slot_now() -> None:
    scheduler = Scheduler(pool(1), Fixed())
    asked = request(prefix=(1, 2, 3), size=768)
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.remove("e0")
    scheduler.pool.add(EndpointSpec("other", "http://other", models={"m": "m"})).health.probe_passed()
    serve(scheduler, asked)
    scheduler.settle(charge, TerminationCause.UPSTREAM_ERROR, 0.0, verdict=Verdict.UNREACHABLE)
    assert scheduler.schedule(asked, 0.0).candidates.cached_tokens == [100]


class Listening(Fixed):
    """Writes down what it hears of ends."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, Usage | None, float, float]] = []

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self.heard.append((request.id, endpoint.name, usage, seconds, now))


@pytest.mark.parametrize(
    ("cause", "verdict", "hears"),
    [
        (TerminationCause.COMPLETED, Verdict.GOOD, True),
        (TerminationCause.COMPLETED, Verdict.NEUTRAL, False),  # a 4xx: it comes fast and says nothing
        (TerminationCause.CLIENT_GONE, Verdict.NEUTRAL, False),
        (TerminationCause.UPSTREAM_ERROR, Verdict.BAD, False),
        (TerminationCause.REFUSED, Verdict.NEUTRAL, False),
    ],
)
def test_the_router_hears_of_whole_good_answers_once(cause: TerminationCause, verdict: Verdict, hears: bool) -> None:
    router = Listening()
    scheduler = Scheduler(pool(1), router)
    asked, usage = request(), Usage(1, 2)
    charge = scheduler.book(asked, scheduler.schedule(asked, 1.0), 1.0)
    for now in (3.5, 9.0):
        scheduler.settle(charge, cause, now, verdict=verdict, usage=usage)
    assert router.heard == ([(asked.id, "e0", usage, 2.5, 3.5)] if hears else [])


class Witness(Fixed):
    """Writes down what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(f"booked {endpoint.name}")

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(f"answered {endpoint.name}")

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self.heard.append(f"finished {endpoint.name}")

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.heard.append(f"ended {endpoint.name}")


@pytest.mark.parametrize("cause", TerminationCause)
def test_each_booking_has_its_end_whatever_becomes_of_it(cause: TerminationCause) -> None:
    router = Witness()
    scheduler = Scheduler(pool(1), router)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    for _ in range(2):
        scheduler.settle(charge, cause, 1.0)
    assert router.heard == ["booked e0", "ended e0"]


def test_a_good_answer_is_heard_from_its_first_byte_to_its_end() -> None:
    router = Witness()
    scheduler = Scheduler(pool(1), router)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.answered(charge, 1.0)
    scheduler.settle(charge, TerminationCause.COMPLETED, 2.0, verdict=Verdict.GOOD)
    assert router.heard == ["booked e0", "answered e0", "finished e0", "ended e0"]


def test_a_second_attempt_of_the_same_request_is_another_booking() -> None:
    router = Witness()
    scheduler = Scheduler(pool(2), router)
    asked = request()
    first = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    one, other = first.endpoint, next(each for each in scheduler.pool if each is not first.endpoint)
    scheduler.settle(first, TerminationCause.UPSTREAM_ERROR, 1.0)
    second = scheduler.book(asked, scheduler.schedule(asked, 1.0, [one]), 1.0)
    scheduler.settle(second, TerminationCause.CLIENT_GONE, 2.0)
    names = [f"{what} {each.name}" for each in (one, other) for what in ("booked", "ended")]
    assert router.heard == names


def test_nothing_is_heard_of_an_endpoint_that_was_removed() -> None:
    router = Witness()
    scheduler = Scheduler(pool(1), router)
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.remove("e0")
    scheduler.answered(charge, 1.0)
    scheduler.settle(charge, TerminationCause.COMPLETED, 2.0, verdict=Verdict.GOOD)
    assert router.heard == ["booked e0"]


def test_a_cache_whose_size_is_known_is_not_thought_to_hold_what_it_has_evicted() -> None:
    router = Fixed()
    router.needs_prefix = True
    scheduler = Scheduler(pool(1), router)
    only = next(iter(scheduler.pool))
    only.metrics = EndpointMetrics(at=0.0, kv_capacity_tokens=500)
    asked = request(400, 10, prefix=(1, 2, 3, 4, 5, 6), size=1600)
    serve(scheduler, asked)
    assert scheduler.schedule(asked, 1.0).cached_tokens == 384
    serve(scheduler, request(400, 10, prefix=(11, 12, 13, 14, 15, 16), size=1600))
    assert scheduler.schedule(asked, 2.0).cached_tokens < 128


def test_another_router_may_take_over() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=1.0))
    assert serve(scheduler, request()) == "e1"
    router = Listening()
    scheduler.router = router
    router.costs = {"e1": 1.0}
    assert serve(scheduler, request()) == "e0"
    asked = request()
    charge = scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0)
    scheduler.settle(charge, TerminationCause.COMPLETED, 1.0, verdict=Verdict.GOOD)
    assert len(router.heard) == 1


def test_a_router_draws_from_the_schedulers_seed() -> None:
    class Drawing(Fixed):
        def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
            return [self.random.random() for _ in candidates.endpoints]

    def run(seed: int) -> list[str]:
        scheduler = Scheduler(pool(4), Drawing(), seed=seed)
        return [serve(scheduler, request()) for _ in range(50)]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_decisions_are_kept_bounded() -> None:
    scheduler = Scheduler(pool(1), Fixed(), keep_decisions=5)
    for _ in range(20):
        serve(scheduler, request())
    assert len(scheduler.decisions) == 5


def test_the_longest_refusal_counts() -> None:
    scheduler = Scheduler(pool(2), Fixed(e0=0.0, e1=1.0))
    asked = request()
    charges = [scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0) for _ in range(2)]
    for charge, seconds in zip(charges, (30.0, 1.0), strict=True):
        assert charge.endpoint.name == "e0"
        scheduler.settle(charge, TerminationCause.REFUSED, 0.0, busy_for=seconds)
    other = scheduler.book(asked, scheduler.schedule(asked, 20.0), 20.0)
    assert other.endpoint.name == "e1"
    scheduler.settle(other, TerminationCause.REFUSED, 20.0, busy_for=1.0)
    assert scheduler.schedule(asked, 25.0).endpoint.name == "e1", "e1 is not busy any more, e0 still is"


def test_what_all_of_the_pool_hold_and_what_all_candidates_hold_are_two_things() -> None:
    router = Fixed()
    router.needs_prefix = True
    scheduler = Scheduler(pool(3), router)
    first, second, third = scheduler.pool
    scheduler._prefixes.record((1, 2), first.slot)
    scheduler._prefixes.record((1, 2), second.slot)
    asked = request(100, prefix=(1, 2), size=512)
    decision = scheduler.schedule(asked, 0.0, tried=[first])
    candidates = decision.candidates
    assert candidates.endpoints == [second, third]
    assert candidates.cached_tokens == [100, 0]


def test_a_router_hears_nothing_more_of_an_endpoint_that_it_was_told_to_forget() -> None:
    class Hearing(Fixed):
        heard = 0

        def finished(
            self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
        ) -> None:
            self.heard += 1

    router = Hearing()
    scheduler = Scheduler(pool(1), router)
    asked = request()
    charges = [scheduler.book(asked, scheduler.schedule(asked, 0.0), 0.0) for _ in range(2)]
    scheduler.settle(charges[0], TerminationCause.COMPLETED, 1.0, verdict=Verdict.GOOD)
    scheduler.remove("e0")
    scheduler.settle(charges[1], TerminationCause.COMPLETED, 1.0, verdict=Verdict.GOOD)
    assert router.heard == 1
