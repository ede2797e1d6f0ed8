"""What the policy promises, driven through the real scheduler; first the cost, then decisions that must not change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from llmgate.core.engine_state import EngineState
from llmgate.core.ledger import Charge
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import (
    Endpoint,
    EndpointMetrics,
    InferenceRequest,
    TerminationCause,
    Usage,
    Verdict,
)
from llmgate.engines.spec import parse_specs
from llmgate.routing.expected_latency import (
    PREFILL_TOKENS_PER_SECOND,
    STEP_SECONDS,
    STEP_SECONDS_PER_SEQUENCE,
    ExpectedLatency,
)
from llmgate.sim.run import PolicyRun, simulate
from llmgate.workloads.types import TraceRequest, Workload
from tests.core.make import pool, request
from tests.routing.test_policies import SYSTEM, prompt, send, start

NOW = 10_000.0


def costs(scheduler: Scheduler, asked: InferenceRequest, now: float = NOW) -> dict[str, float]:
    decision = scheduler.schedule(asked, now)
    return dict(zip((each.name for each in decision.candidates.endpoints), decision.costs, strict=True))


def winner(scheduler: Scheduler, asked: InferenceRequest, now: float = NOW) -> str:
    found = costs(scheduler, asked, now)
    return min(found, key=lambda name: found[name])


def place(scheduler: Scheduler, asked: InferenceRequest, name: str, now: float = NOW) -> Charge:
    """Book it on one of the endpoints, whatever the policy says."""
    others = [each for each in scheduler.pool if each.name != name]
    return scheduler.book(asked, scheduler.schedule(asked, now, others), now)


def answer(scheduler: Scheduler, charge: Charge, now: float) -> None:
    scheduler.answered(charge, now)
    charge.prefill_done()


def finish(scheduler: Scheduler, charge: Charge, now: float, tokens: int = 0) -> None:
    usage = Usage(charge.request.prompt_tokens, tokens) if tokens else None
    scheduler.settle(charge, TerminationCause.COMPLETED, now, verdict=Verdict.GOOD, usage=usage)


def known(scheduler: Scheduler, name: str) -> EngineState:
    router, endpoint = scheduler.router, scheduler.pool.get(name)
    assert isinstance(router, ExpectedLatency)
    assert endpoint is not None
    return router.engine(endpoint)


def endpoints(scheduler: Scheduler) -> list[Endpoint]:
    return list(scheduler.pool)


# The cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_of_an_idle_endpoint_is_its_prefill_and_decode_in_seconds() -> None:
    scheduler = Scheduler(pool(1), ExpectedLatency())
    own = 500 * (1 + 4e-5 * 250) / PREFILL_TOKENS_PER_SECOND
    each = STEP_SECONDS_PER_SEQUENCE * (1 + 1e-3 * 550)
    ttft = STEP_SECONDS + own
    rest = 100 * (STEP_SECONDS + each)
    assert costs(scheduler, request(500, 100))["e0"] == pytest.approx(ttft + (ttft + rest) + own + 100 * each)


def test_an_endpoint_of_twice_the_weight_is_taken_to_be_twice_as_fast() -> None:
    found = costs(Scheduler(pool(2, e1=2.0), ExpectedLatency()), request(500, 100))
    assert found["e0"] == pytest.approx(2 * found["e1"])


def test_an_endpoint_that_starts_slowly_costs_as_much_more_as_it_counts_less() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    endpoints(scheduler)[1].weight = 0.1
    found = costs(scheduler, request(500, 100))
    assert found["e1"] == pytest.approx(10 * found["e0"])


def test_a_weight_that_is_changed_is_believed_again() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    costs(scheduler, request(500, 100))
    changed = endpoints(scheduler)[0]
    scheduler.pool.update(changed, replace(changed.spec, weight=4.0))
    found = costs(scheduler, request(500, 100))
    assert found["e1"] == pytest.approx(4 * found["e0"])


def test_a_reload_that_changes_nothing_forgets_nothing() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    slow_down(scheduler, "e0", 4.0)
    before = costs(scheduler, request(500, 100))
    for each in scheduler.pool:
        scheduler.pool.update(each, replace(each.spec, labels={"tier": "a"}))
    assert costs(scheduler, request(500, 100)) == before


def test_engines_of_other_makes_or_models_learn_apart() -> None:
    scheduler = Scheduler(pool(3), ExpectedLatency())
    h100, l40s, other = endpoints(scheduler)
    scheduler.pool.update(h100, replace(h100.spec, gpu="H100"))
    scheduler.pool.update(l40s, replace(l40s.spec, gpu="L40S"))
    lines = {id(known(scheduler, each.name).prefill.line) for each in (h100, l40s, other)}
    assert len(lines) == 3


def test_a_lora_adapter_makes_no_other_engine_of_it() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    one, other = endpoints(scheduler)
    scheduler.pool.set_models(one, {"m": "m", "tuned": "tuned"}, {"tuned": "m"})
    assert known(scheduler, one.name).prefill.line is known(scheduler, other.name).prefill.line


@pytest.mark.parametrize(("age", "counts"), [(1.0, True), (6.0, False)])
def test_what_the_engine_says_counts_while_the_reading_is_fresh(age: float, counts: bool) -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    endpoints(scheduler)[0].metrics = EndpointMetrics(at=NOW - age, waiting=3, running=40)
    found = costs(scheduler, request(500, 100))
    assert (found["e0"] > 2 * found["e1"]) is counts


def test_what_waits_there_and_what_was_sent_is_not_counted_twice() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    for each in ("e0", "e1"):
        place(scheduler, request(5000, 0), each)
    endpoints(scheduler)[0].metrics = EndpointMetrics(at=NOW, waiting=1, running=0)
    found = costs(scheduler, request(500, 0))
    assert found["e0"] == pytest.approx(found["e1"])


# Decisions that must not change ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "wins"), [(0, "e0"), (2_000, "e0"), (20_000, "e1")])
def test_a_cached_prefix_is_worth_the_wait_that_it_saves(ahead: int, wins: str) -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    finish(scheduler, place(scheduler, prompt(*range(32)), "e0"), NOW)  # 5,120 tokens
    if ahead:
        place(scheduler, request(ahead, 0), "e0")
    assert winner(scheduler, prompt(*range(32), 99)) == wins


def test_work_ahead_is_done_as_time_passes() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    place(scheduler, request(20_000, 0), "e0")
    place(scheduler, request(4_000, 0), "e1")
    assert winner(scheduler, request(4_000, 0)) == "e1"
    finish(scheduler, place(scheduler, request(8_000, 0), "e1", NOW + 2.0), NOW + 2.1)
    answer(scheduler, place(scheduler, request(8_000, 0), "e1", NOW + 3.0), NOW + 4.5)
    place(scheduler, request(8_000, 0), "e1", NOW + 4.5)
    assert winner(scheduler, request(4_000, 0), NOW + 5.0) == "e0", "what it was sent is computed by now"


@pytest.mark.parametrize("booked", [True, False])
def test_no_room_in_the_kv_cache_is_worse_than_work_ahead(booked: bool) -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    full, busy = endpoints(scheduler)
    full.metrics = EndpointMetrics(at=NOW, kv_usage=0.99, kv_capacity_tokens=50_000)
    busy.metrics = EndpointMetrics(at=NOW, kv_usage=0.2, kv_capacity_tokens=50_000)
    if booked:
        answer(scheduler, place(scheduler, request(100, 500), full.name, NOW - 1.0), NOW - 0.5)
    place(scheduler, request(4_000, 50), busy.name)
    assert winner(scheduler, request(8_000, 500)) == busy.name
    busy.metrics = full.metrics
    place(scheduler, request(20_000, 500), busy.name)
    assert winner(scheduler, request(8_000, 500)) == full.name, "when there is room nowhere, time decides again"


def test_room_that_own_requests_hold_counts_without_a_reading_of_usage() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    for each in scheduler.pool:
        each.metrics = EndpointMetrics(at=NOW - 100.0, kv_capacity_tokens=20_000)
    answer(scheduler, place(scheduler, request(19_000, 900), "e0", NOW - 5.0), NOW - 1.0)
    place(scheduler, request(3_000, 50), "e1")
    assert winner(scheduler, request(3_000, 500)) == "e1"


def slow_down(scheduler: Scheduler, name: str, times: float, seconds: int = 60) -> None:
    """The endpoint answers a request a second, so many times as slowly as its prior says; the others as it says."""
    for second in range(seconds):
        for each in scheduler.pool:
            at, slower = NOW - 1000.0 + second, times if each.name == name else 1.0
            charge = place(scheduler, request(1000, 50), each.name, at)
            first = at + slower * 1000 * (1 + 4e-5 * 500) / PREFILL_TOKENS_PER_SECOND
            answer(scheduler, charge, first)
            finish(scheduler, charge, first + slower * 49 * (STEP_SECONDS + 0.0007), tokens=50)


def test_a_slow_engine_is_learnt_and_avoided() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    slow_down(scheduler, "e0", 3.0)
    found = costs(scheduler, request(2000, 100), NOW - 940.0)
    assert 1.2 * found["e1"] < found["e0"] < 3.0 * found["e1"], "less what comes by chance (ALIKE)"


def test_a_slow_engine_gets_another_chance_when_it_has_not_been_seen_for_long() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    slow_down(scheduler, "e0", 3.0)
    found = costs(scheduler, request(2000, 100), NOW)
    assert found["e0"] == pytest.approx(found["e1"])


def test_a_long_prompt_goes_where_it_delays_fewer() -> None:
    for harm, wins in ((0.0, "e0"), (0.3, "e1")):
        scheduler = Scheduler(pool(2), ExpectedLatency(prefill_harm=harm, decode_harm=0.0))
        for _ in range(20):
            answer(scheduler, place(scheduler, request(10, 200), "e0"), NOW)
        place(scheduler, request(4_000, 0), "e1")
        assert winner(scheduler, request(8_000, 10)) == wins, f"prefill_harm {harm}"


def test_two_that_begin_at_once_part() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    assert {start(scheduler, prompt(1, 2, 3)), start(scheduler, prompt(4, 5, 6))} == {"e0", "e1"}


def test_a_burst_with_one_system_prompt_spreads() -> None:
    scheduler = Scheduler(pool(4), ExpectedLatency())
    counts = Counter(start(scheduler, prompt(*SYSTEM, 1000 + user), user * 0.001) for user in range(200))
    assert all(40 <= count <= 60 for count in counts.values()), counts


def test_each_of_200_system_prompts_stays_where_it_is_cached() -> None:
    scheduler = Scheduler(pool(4), ExpectedLatency())
    places: dict[int, Counter[str]] = {}
    for number in range(4000):
        tenant = number * 7919 % 200
        asked = prompt(*(1000 * tenant + block for block in range(4)), 10**6 + number)
        places.setdefault(tenant, Counter())[send(scheduler, asked, number * 0.01)] += 1
    assert sum(max(counts.values()) for counts in places.values()) >= 0.97 * 4000
    load = sum(places.values(), Counter())
    assert max(load.values()) <= 1.5 * min(load.values()), load


def test_a_lone_conversation_never_moves() -> None:
    scheduler = Scheduler(pool(8), ExpectedLatency())
    assert len({send(scheduler, prompt(*range(4 + 3 * turn), output=200), turn * 2.0) for turn in range(100)}) == 1


# 200 conversations that begin at once, on simulated engines --------------------------------------------------------


def conversations(every: float, turn_blocks: int, output: int) -> Workload:
    """200 of five turns that share a system prompt of 256 tokens; a request comes each `every` seconds."""
    requests: list[TraceRequest] = []
    for turn in range(1, 6):
        for user in range(200):
            blocks = (*range(16), *(10_000 * (user + 1) + part for part in range(turn_blocks * turn)))
            at = every * len(requests)
            requests.append(TraceRequest(at, 16 * len(blocks) + 3, output, blocks, 16, session=f"user-{user}"))
    return Workload("200 conversations", requests)


def moved(load: Workload, run: PolicyRun) -> int:
    places: dict[str | None, set[int]] = {}
    for asked, engine in zip(load.requests, run.outcome.requests.engine, strict=True):
        places.setdefault(asked.session, set()).add(int(engine))
    return sum(len(engines) > 1 for engines in places.values())


def test_of_conversations_with_long_turns_none_leaves_its_cache() -> None:
    load = conversations(0.1, 64, 200)
    assert moved(load, simulate(load, parse_specs("4xa100:llama-3.1-8b"), "expected-latency")) <= 2


@pytest.mark.parametrize("every", [0.02, 0.1, 0.5])
def test_short_turns_may_move_but_nobody_waits_for_it(every: float) -> None:
    """To compute 500 tokens again takes less than to decode beside one more: that some move is no fault."""
    load = conversations(every, 8, 64)
    mine, stays = (
        simulate(load, parse_specs("4xa100:llama-3.1-8b"), name).summary
        for name in ("expected-latency", "prefix-affinity")
    )
    assert mine.ttft.mean <= 1.1 * stays.ttft.mean
    assert mine.e2e.mean <= 1.03 * stays.e2e.mean
    assert mine.prefix_hit_ratio >= 0.95 * stays.prefix_hit_ratio


# Nothing is left behind --------------------------------------------------------------------------------------------


def test_whatever_becomes_of_requests_nothing_of_them_is_kept() -> None:
    random, now = Random(0), 0.0
    router = ExpectedLatency()
    scheduler = Scheduler(pool(4), router)
    flying: list[tuple[Charge, list[Endpoint]]] = []
    for _ in range(3000):
        now += random.choice([0.0, 0.0, 0.01, 0.2])
        if len(flying) < 30 and random.random() < 0.6:
            asked = prompt(*range(random.randrange(1, 30)), output=random.randrange(500))
            asked.stream = random.random() < 0.7
            charge = scheduler.book(asked, scheduler.schedule(asked, now), now)
            flying.append((charge, [charge.endpoint]))
        elif flying:
            charge, tried = flying.pop(random.randrange(len(flying)))
            if random.random() < 0.7:
                answer(scheduler, charge, now)
            if random.random() < 0.5:
                finish(scheduler, charge, now, tokens=random.randrange(400))
                continue
            scheduler.settle(charge, random.choice(list(TerminationCause)), now)
            if len(tried) < len(scheduler.pool) and random.random() < 0.5:  # the same request, elsewhere
                again = scheduler.book(charge.request, scheduler.schedule(charge.request, now, tried), now)
                flying.append((again, [*tried, again.endpoint]))
    for charge, _ in flying:
        scheduler.settle(charge, TerminationCause.SHUTDOWN, now)
    for each in endpoints(scheduler):
        assert router.engine(each).open_requests == 0
        assert router.engine(each).busy_until <= now


def test_an_endpoint_that_leaves_is_forgotten_with_what_is_open_there() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    charge = place(scheduler, request(50_000, 100), "e0")
    before = known(scheduler, "e0")
    scheduler.remove("e0")
    finish(scheduler, charge, NOW + 1.0, tokens=100)
    spec = charge.endpoint.spec
    scheduler.pool.add(spec).health.probe_passed()
    assert known(scheduler, "e0") is not before
    assert known(scheduler, "e0").open_requests == 0


def test_a_policy_that_is_put_in_place_while_requests_are_open_hears_only_their_ends() -> None:
    scheduler = Scheduler(pool(2), ExpectedLatency())
    charge = place(scheduler, request(5000, 100), "e0")
    scheduler.router = ExpectedLatency()
    answer(scheduler, charge, NOW + 1.0)
    finish(scheduler, charge, NOW + 2.0, tokens=100)
    found = costs(scheduler, request(500, 100), NOW + 2.0)
    assert known(scheduler, "e0").open_requests == 0
    assert found["e0"] == pytest.approx(found["e1"], rel=0.05)  # but for what was booked there lately
