"""When things go out. PROFILE: a step takes 10 ms, and 1 ms for each prompt token or decoding sequence in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.sim.http_engine.sims import PROFILE, ByHand, Wire, events

PROMPT: dict[str, Any] = {"prompt": [1] * 30, "max_tokens": 4, "ignore_eos": True}
FIRST = 0.040  # s: a step with 30 prompt tokens
NEXT = 0.011  # s: a step that decodes one sequence


def send(sim: ByHand, late: float = 0.0, **changes: Any) -> Wire:
    return sim.send(PROMPT | {"stream": True} | changes, chat=False, late=late)[1]


def test_a_token_goes_out_when_its_step_ends_and_never_before() -> None:
    sim = ByHand()
    wire = send(sim)
    sim.run(FIRST - 0.0001)
    assert wire.tokens == 0
    sim.run(0.0002)
    assert wire.tokens == 1


def test_tokens_that_are_due_together_go_out_together_one_event_each() -> None:
    sim = ByHand(speed=10.0, tick_s=0.005)
    wire = send(sim, max_tokens=40)
    sim.run(FIRST / 10)
    before = len(wire.writes)
    sim.run(0.005)
    assert wire.tokens == 1 + 4  # a tick is 50 ms of the engine's: four steps of 11 ms
    assert len(wire.writes) == before + 1


def test_streams_are_looked_at_once_a_tick_and_otherwise_only_when_something_happens() -> None:
    sim = ByHand(tick_s=0.005)
    send(sim, max_tokens=40)
    sim.run(FIRST)
    assert sim.alarm.when == pytest.approx(sim.wall + 0.005)
    sim.run(1.0)
    assert sim.alarm.when == float("inf")


def test_an_answer_as_a_whole_needs_no_ticks() -> None:
    sim = ByHand(tick_s=0.005)
    send(sim, stream=False, max_tokens=40)
    sim.run(FIRST)
    assert sim.alarm.when == pytest.approx(100 + FIRST + 39 * NEXT)


def test_delays_of_the_alarm_do_not_add_up() -> None:
    exact, late = ByHand(), ByHand()
    wires = send(exact, max_tokens=100), send(late, max_tokens=100)
    exact.run(FIRST + 99 * NEXT + 0.0001)
    late.run(FIRST + 99 * NEXT + 0.0001, late=0.002)
    late.run(0.002)
    assert wires[0].tokens == wires[1].tokens == 100


def test_a_request_counts_as_arrived_when_it_was_there_not_when_it_was_read() -> None:
    sim = ByHand()
    wire = send(sim, late=0.015)
    sim.run(FIRST - 0.015 + 0.0001)
    assert wire.tokens == 1


def test_the_engine_is_as_much_faster_as_speed_says() -> None:
    sim = ByHand(speed=10.0)
    wire = send(sim)
    sim.run(FIRST / 10 - 0.0001)
    assert wire.tokens == 0
    sim.run(3 * NEXT / 10 + 0.0002)
    assert wire.tokens == 4


def test_a_slower_engine_takes_longer_from_then_on() -> None:
    sim = ByHand()
    wire = send(sim)
    sim.run(FIRST / 2)
    sim.service.set_slowdown(3.0)
    sim.run(FIRST / 2 * 3 - 0.0001)
    assert wire.tokens == 0
    sim.run(0.0002)
    assert wire.tokens == 1


def test_the_metrics_of_a_slower_engine_are_slower() -> None:
    sim = ByHand(speed=2.0)
    sim.service.set_slowdown(4.0)
    send(sim)
    sim.run(1.0)
    histograms = sim.metrics.histograms
    assert histograms["time_to_first_token_seconds"].sum == pytest.approx(FIRST * 4 / 2)
    assert histograms["request_time_per_output_token_seconds"].sum == pytest.approx(NEXT * 4 / 2)


def test_a_client_that_leaves_frees_its_place_at_the_end_of_the_step() -> None:
    sim = ByHand()
    job, wire = sim.send(PROMPT | {"stream": True, "max_tokens": 500}, chat=False)
    sim.run(0.1)
    assert sim.service.gauges().running == 1
    job.exchange.left()
    sim.run(NEXT)
    assert (sim.service.gauges().running, sim.service.gauges().kv_usage, sim.service.open_requests) == (0, 0.0, 0)
    assert sim.alarm.when == float("inf")
    assert b"[DONE]" not in wire.written


def test_the_model_tells_its_own_times_if_asked() -> None:
    sim = ByHand(speed=10.0)
    _, wire = sim.send(PROMPT, chat=False, x_sim_times="1")
    sim.run(1.0)
    told = msgspec.json.decode(wire.body)["usage"]["x_sim"]
    assert told["ttft_s"] == pytest.approx(FIRST)
    assert told["tpot_s"] == pytest.approx(NEXT)
    assert told["e2e_s"] == pytest.approx(FIRST + 3 * NEXT)


def test_what_comes_while_it_sleeps_waits_without_a_byte_and_is_served_when_it_wakes() -> None:
    sim = ByHand()
    sim.service.sleep(1)
    wire = send(sim)
    sim.run(10.0)
    assert (wire.written, sim.service.gauges().waiting, sim.service.open_requests) == (b"", 0, 1)
    sim.service.wake()
    sim.run(1.0)
    assert wire.body.endswith(b"data: [DONE]\n\n")


def test_what_runs_when_it_goes_to_sleep_ends_with_abort() -> None:
    sim = ByHand()
    streamed, whole = send(sim, max_tokens=500), send(sim, max_tokens=500, stream=False)
    sim.run(0.2)
    sim.service.sleep(2)
    assert sim.service.sleep_state == "discard_all"
    sent = events(streamed.body.decode())
    assert [each["choices"][0]["finish_reason"] for each in sent if isinstance(each, dict)][-1] == "abort"
    assert msgspec.json.decode(whole.body)["choices"][0]["finish_reason"] == "abort"
    assert sim.service.open_requests == 0


def test_counters_go_on_after_the_engine_has_forgotten_all() -> None:
    sim = ByHand()
    send(sim)
    sim.run(1.0)
    before = sim.service.gauges()
    assert sim.service.reset_prefix_cache()
    send(sim)
    sim.run(1.0)
    after = sim.service.gauges()
    assert (before.generated_tokens, after.generated_tokens) == (4, 8)
    assert after.prefix_queries == 60


def test_the_cache_is_not_reset_under_a_request() -> None:
    sim = ByHand()
    send(sim)
    assert not sim.service.reset_prefix_cache()


def test_lower_priorities_go_first_where_the_queue_is_by_priority() -> None:
    sim = ByHand(priority_queue=True)
    for _ in range(4):  # as many as may run
        send(sim, max_tokens=50)
    late, early = send(sim, priority=5), send(sim, priority=-5)
    while not (early.tokens or late.tokens):
        sim.run(0.01)
    assert (early.tokens > 0, late.tokens) == (True, 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_can_never_fit_ends_with_an_error(streamed: bool) -> None:
    sim = ByHand(profile=replace(PROFILE, kv_tokens=64))  # less than max_model_len: `fitted` would not let this be
    _, wire = sim.send(PROMPT | {"stream": streamed, "max_tokens": 100}, chat=False)
    sim.run(1.0)
    assert b'"type":"InternalServerError"' in wire.body
    assert wire.body.startswith(b"data: ") is streamed
    assert sim.service.open_requests == 0
