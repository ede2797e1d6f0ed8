from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llmgate.engines.engine import Engine
from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import EngineEvent, EngineRequest, EventKind

FIRST, FINISHED, PREEMPTED, REJECTED = (
    EventKind.FIRST_TOKEN,
    EventKind.FINISHED,
    EventKind.PREEMPTED,
    EventKind.REJECTED,
)
PROFILE = EngineProfile(
    name="test",
    model="m",
    step_s=1.0,
    sequence_s=0.1,
    kv_token_s=0.001,
    prefill_token_s=0.01,
    prefill_pair_s=0.0001,
    kv_tokens=1600,
    block_tokens=16,
    max_batch_tokens=100,
    max_running=4,
    max_model_len=1000,
)


def run(engine: Engine) -> list[EngineEvent]:
    events = []
    while (due := engine.next_event()) < math.inf:
        events += engine.advance(due)
    return events


def request(prompt: int, output: int, blocks: tuple[int, ...] = (), priority: int = 0) -> EngineRequest:
    return EngineRequest(0, prompt, output, blocks, 16, priority)


def when(events: list[EngineEvent], kind: EventKind, wanted: EngineRequest) -> list[float]:
    return [event.at for event in events if event.kind is kind and event.request is wanted]


def test_a_request_alone_takes_what_the_profile_says() -> None:
    engine, one = Engine(PROFILE), request(prompt=50, output=3)
    engine.submit(one, 10.0)
    events = run(engine)
    first = 10.0 + 1 + 0.01 * 50 + 0.0001 * 50 * 49 / 2
    decode = 2 * (1 + 0.1) + 0.001 * (51 + 52)
    assert [event.kind for event in events] == [FIRST, FINISHED]
    assert events[0].at == pytest.approx(first)
    assert events[1].at == pytest.approx(first + decode)


def test_a_step_that_computes_a_prompt_costs_its_surcharges() -> None:
    engine = Engine(replace(PROFILE, prefill_step_s=0.5, prefill_kv_token_s=0.01))
    one, two = request(20, 9), request(10, 1)
    engine.submit(one, 0.0)
    at = 0.0
    while not engine.generated(one):
        at = engine.next_event()
        engine.advance(at)
    assert at == pytest.approx(1 + 0.5 + 0.2 + 0.0001 * 190)
    engine.submit(two, at)
    step = 1 + 0.1 + 0.021 + 0.5 + 0.01 * 21 + 0.1 + 0.0001 * 45
    assert when(run(engine), FIRST, two) == [pytest.approx(at + step)]


def test_one_token_is_sampled_when_the_prompt_is_computed() -> None:
    engine, one = Engine(PROFILE), request(10, 1)
    engine.submit(one, 0.0)
    events = run(engine)
    assert [event.kind for event in events] == [FIRST, FINISHED]
    assert events[0].at == events[1].at


def test_a_long_prompt_is_computed_in_chunks_between_decodes() -> None:
    engine, short, long = Engine(PROFILE), request(10, 50), request(250, 2)
    engine.submit(short, 0.0)
    engine.advance(1.5)
    engine.submit(long, 1.5)
    assert engine.prefilled(long) == 0
    before = engine.generated(short)
    at = 1.5
    seen = []
    while not engine.generated(long):
        at = engine.next_event()
        engine.advance(at)
        seen.append(engine.prefilled(long))
    assert {99, 198, 250} <= set(seen)  # 100 tokens a step, one of them the other's
    assert engine.generated(short) > before + 2


def test_what_arrives_during_a_step_waits_for_its_end() -> None:
    engine, one, two = Engine(PROFILE), request(10, 5), request(10, 1)
    engine.submit(one, 0.0)
    engine.submit(two, 0.5)
    events = run(engine)
    end = when(events, FIRST, one)[0]
    assert when(events, FIRST, two)[0] > end + 1


def test_no_more_run_than_may() -> None:
    engine = Engine(PROFILE)
    requests = [request(5, 20) for _ in range(6)]
    for each in requests:
        engine.submit(each, 0.0)
    engine.advance(3.0)
    assert engine.gauges().running == 4
    assert engine.gauges().waiting == 2
    events = run(engine)
    assert when(events, FIRST, requests[4])[0] > when(events, FINISHED, requests[0])[0]


def test_whole_blocks_of_a_prompt_seen_before_are_found_but_for_the_last_token() -> None:
    engine = Engine(PROFILE)
    engine.submit(request(48, 1, (1, 2, 3)), 0.0)
    run(engine)
    again, longer = request(48, 1, (1, 2, 3)), request(60, 1, (1, 2, 3))
    assert engine.cached_tokens(again) == 32
    assert engine.cached_tokens(longer) == 48
    assert engine.cached_tokens(request(60, 1, (1, 9, 3))) == 16
    engine.submit(again, 100.0)
    assert run(engine)[0].cached_tokens == 32
    assert engine.gauges().prefix_queries == 96
    assert engine.gauges().prefix_hits == 32


def test_an_answer_is_found_by_the_next_turn() -> None:
    engine = Engine(PROFILE)
    engine.submit(request(20, 30, (1, 2, 3)), 0.0)
    run(engine)
    assert engine.cached_tokens(request(60, 1, (1, 2, 3))) == 48


def test_large_blocks_of_a_trace_take_their_memory_and_small_ones_make_whole_blocks() -> None:
    engine = Engine(PROFILE)
    engine.submit(EngineRequest(0, 130, 1, (1, 2), 64), 0.0)
    run(engine)
    assert engine.cached_tokens(EngineRequest(0, 130, 1, (1, 2), 64)) == 128
    engine.submit(EngineRequest(0, 20, 1, (11, 12, 13, 14, 15), 4), 50.0)
    run(engine)
    assert engine.cached_tokens(EngineRequest(0, 20, 1, (11, 12, 13, 14, 15), 4)) == 16
    with pytest.raises(ValueError, match="24 tokens are not whole blocks of 16"):
        engine.submit(EngineRequest(0, 30, 1, (1,), 24), 99.0)


def test_the_oldest_that_nobody_holds_is_dropped_from_its_end() -> None:
    engine = Engine(replace(PROFILE, kv_tokens=160))
    engine.submit(request(64, 1, (1, 2, 3, 4)), 0.0)
    run(engine)
    engine.submit(request(64, 1, (5, 6, 7, 8)), 50.0)
    run(engine)
    engine.submit(request(64, 1, (9, 10, 11, 12)), 100.0)
    run(engine)
    assert engine.cached_tokens(request(99, 1, (1, 2, 3, 4))) == 32
    assert engine.cached_tokens(request(99, 1, (5, 6, 7, 8))) == 64


def test_without_room_the_last_to_arrive_gives_way_and_goes_on_where_it_was() -> None:
    engine = Engine(replace(PROFILE, kv_tokens=96))
    one, two = request(30, 40), request(30, 40)
    engine.submit(one, 0.0)
    engine.submit(two, 0.0)
    events = run(engine)
    assert len(when(events, PREEMPTED, two)) == 1
    assert not when(events, PREEMPTED, one)
    assert len(when(events, FIRST, two)) == 1
    assert when(events, FINISHED, two)[0] > when(events, FINISHED, one)[0]
    gauges = engine.gauges()
    assert (gauges.preemptions, gauges.generated_tokens, gauges.prompt_tokens) == (1, 80, 60)


def test_by_priority_the_lowest_gives_way_and_the_highest_is_first() -> None:
    engine = Engine(replace(PROFILE, kv_tokens=96), priority_queue=True)
    low, high = request(30, 40, priority=5), request(30, 40, priority=1)
    engine.submit(low, 0.0)
    engine.submit(high, 0.0)
    events = run(engine)
    assert when(events, PREEMPTED, low)
    assert not when(events, PREEMPTED, high)
    engine = Engine(replace(PROFILE, max_running=1), priority_queue=True)
    requests = [request(10, 2, priority=priority) for priority in (3, 1, 2)]
    for each in requests:
        engine.submit(each, 0.0)
    ends = [event.request.priority for event in run(engine) if event.kind is FINISHED]
    assert ends == [1, 2, 3]


def test_a_prompt_is_admitted_only_if_all_of_it_has_room() -> None:
    engine = Engine(replace(PROFILE, kv_tokens=320))
    one, two, three = request(150, 30), request(200, 2), request(5, 2)
    for each in (one, two, three):
        engine.submit(each, 0.0)
    events = run(engine)
    assert when(events, FIRST, two)[0] > when(events, FINISHED, one)[0]
    assert when(events, FIRST, three)[0] >= when(events, FIRST, two)[0], "the queue keeps its order"


@pytest.mark.parametrize(("prompt", "output"), [(990, 20), (1500, 200)])
def test_what_can_never_fit_is_rejected(prompt: int, output: int) -> None:
    engine, one = Engine(replace(PROFILE, max_model_len=1000 if prompt < 1000 else 9000)), request(prompt, output)
    engine.submit(one, 3.0)
    assert engine.next_event() == 3.0
    assert [(event.kind, event.at) for event in engine.advance(3.0)] == [(REJECTED, 3.0)]
    assert engine.next_event() == math.inf


def test_an_aborted_request_leaves_when_the_running_step_ends_and_says_nothing_more() -> None:
    engine, one, two = Engine(PROFILE), request(10, 50), request(10, 5)
    engine.submit(one, 0.0)
    engine.submit(two, 0.0)
    engine.advance(4.0)
    assert engine.abort(one, 4.0)
    assert engine.gauges().running == 2
    events = run(engine)
    assert engine.gauges().running == 0
    assert {event.request for event in events} == {two}
    assert not engine.abort(two, 100.0)


def test_a_crash_forgets_all_and_names_what_was_open() -> None:
    engine = Engine(PROFILE)
    requests = [request(48, 90, (1, 2, 3)) for _ in range(6)]
    for each in requests:
        engine.submit(each, 0.0)
    engine.advance(9.0)
    assert engine.reset(9.0) == requests
    assert engine.next_event() == math.inf
    assert engine.cached_tokens(requests[0]) == 0
    assert engine.gauges().kv_usage == 0


def test_cache_events_follow_the_chain() -> None:
    engine = Engine(replace(PROFILE, kv_tokens=80), cache_events=True)
    engine.submit(request(48, 1, (1, 2, 3)), 0.0)
    run(engine)
    engine.submit(request(48, 17, (7, 8, 9, 10)), 50.0)
    run(engine)
    told = [(list(event.stored), list(event.removed)) for event in engine.take_cache_events()]
    assert told == [([1, 2, 3], []), ([], [3]), ([7, 8, 9], []), ([], [2]), ([10], [])]
    assert engine.take_cache_events() == []


def test_time_does_not_run_backwards() -> None:
    engine = Engine(PROFILE)
    engine.advance(5.0)
    with pytest.raises(ValueError, match="backwards"):
        engine.advance(4.0)


@pytest.mark.parametrize("change", [{"step_s": 0.0}, {"kv_tokens": 3}, {"max_running": 0}])
def test_a_profile_that_is_none_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="profile test"):
        Engine(replace(PROFILE, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead", [False, True])
def test_with_asynchronous_scheduling_what_arrives_waits_a_step_more(ahead: bool) -> None:
    engine = Engine(replace(PROFILE, kv_token_s=0.0, async_scheduling=ahead))
    one, two = request(10, 50), request(10, 1)
    engine.submit(one, 0.0)
    first = engine.next_event()
    while not engine.generated(one):
        engine.advance(first := engine.next_event())
    engine.submit(two, first + 0.5)
    step = 1.1
    prefill = step + 0.1 + 0.0001 * 45
    steps_before = 2 if ahead else 1
    assert when(run(engine), FIRST, two) == [pytest.approx(first + steps_before * step + prefill)]


def test_an_idle_engine_begins_at_once_however_it_schedules() -> None:
    engine, one = Engine(replace(PROFILE, async_scheduling=True)), request(10, 1)
    engine.submit(one, 5.0)
    assert when(run(engine), FIRST, one) == [pytest.approx(5 + 1 + 0.1 + 0.0001 * 45)]
