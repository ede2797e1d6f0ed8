"""Requests through the simulated gateway."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.core.prefix import block_end
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineRequest
from llmgate.routing import registry
from llmgate.sim.incidents import parse_incident
from llmgate.sim.policies import every_name
from llmgate.sim.run import PolicyRun, simulate
from llmgate.sim.settings import Settings
from llmgate.sim.shell import BROKEN, LATE, LOST, NOT_SERVED, REFUSED, TOO_LONG
from llmgate.workloads.types import Workload
from tests.sim.make import PROFILE, conversations, fleet, request, steady, workload

EXACT = Settings(estimate_error=0.0)


class FirstAlways(Router):
    """To e0 as long as it may be chosen; notes what it saw."""

    needs_prefix = True
    needs_session = True

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []
        self.loads: list[list[tuple[int, int, int]]] = []
        self.cached: list[Sequence[int]] = []
        self.readings: list[tuple[float, int | None]] = []  # age, running
        self.ends: list[tuple[str, Usage | None, float]] = []
        self.candidates: list[list[str]] = []

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        self.requests.append(request)
        self.candidates.append([endpoint.name for endpoint in candidates.endpoints])
        self.loads.append(
            [(e.load.requests, e.load.prefill_tokens, e.load.decode_tokens) for e in candidates.endpoints]
        )
        self.cached.append(candidates.cached_tokens)
        metrics = candidates.endpoints[0].metrics
        if metrics is not None:
            self.readings.append((candidates.now - metrics.at, metrics.running))
        return [float(endpoint.slot) for endpoint in candidates.endpoints]

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self.ends.append((endpoint.name, usage, seconds))


def run(load: Workload, *at: str, count: int = 2, settings: Settings = EXACT, **profile: object) -> PolicyRun:
    incidents = [parse_incident(text) for text in at]
    return simulate(load, fleet(count, **profile), FirstAlways, settings=settings, incidents=incidents)


def watched(load: Workload, *at: str, count: int = 2, settings: Settings = EXACT) -> tuple[FirstAlways, PolicyRun]:
    router = FirstAlways()
    incidents = [parse_incident(text) for text in at]
    return router, simulate(load, fleet(count), lambda: router, settings=settings, incidents=incidents)


def test_a_lone_request_takes_what_its_engine_takes() -> None:
    engine = Engine(PROFILE)
    engine.submit(EngineRequest(0, 1000, 10), 5.0)
    times = []
    while (due := engine.next_event()) < math.inf:
        times += [event.at for event in engine.advance(due)]
    first, end = times
    table = run(workload(request(5.0))).outcome.requests
    assert (table.arrived[0], table.first_token[0], table.ended[0]) == (5.0, first, end)
    assert table.ok.all()


def test_a_closed_loop_request_comes_when_the_one_before_has_ended_and_its_client_has_thought() -> None:
    load = workload(request(0.0), request(1.0, after=0, think_s=3.0), request(2.0, after=1, think_s=0.0))
    table = run(load).outcome.requests
    assert table.arrived[1] == table.ended[0] + 3.0
    assert table.arrived[2] == table.ended[1]


def test_the_policy_is_shown_bookings_that_shrink_as_tokens_come() -> None:
    router, _ = watched(workload(request(0.0, 1000, 100), request(0.05, 10), request(0.5, 10)), count=1)
    assert router.loads[0] == [(0, 0, 0)]
    assert router.loads[1] == [(1, 1000, 1024)]  # nothing has come yet: the whole prompt, and the expected answer
    (requests, prefill, decode), *_ = router.loads[2]
    assert requests == 1
    assert prefill == 0
    assert 1024 - 50 < decode < 1024


def test_the_policy_knows_a_prompt_that_came_before_and_expects_answers_like_those_that_came() -> None:
    blocks = tuple(range(100))
    load = workload(request(0.0, 1600, 30, blocks=blocks), request(5.0, 1600, 30, blocks=blocks, session="s"))
    router, done = watched(load)
    assert list(router.cached[0]) == [0, 0]
    held, elsewhere = router.cached[1]
    assert elsewhere == 0
    assert held == pytest.approx(block_end(18) / 4, rel=0.2), "whole byte blocks, less the error of the estimate"
    assert 30 <= router.requests[1].expected_output_tokens < 1024 / 4  # one answer of 30, and a prior of 1024
    assert router.requests[1].session == "s"
    assert done.outcome.requests.cached_tokens[1] >= 1584 - 16


def test_readings_have_an_age() -> None:
    router, _ = watched(steady(40, 0.25, output=100), count=1)
    ages = [age for age, _ in router.readings[4:]]
    assert min(ages) >= EXACT.scrape_latency
    assert max(ages) <= EXACT.scrape_period + EXACT.scrape_latency
    assert any(running for _, running in router.readings)


def test_the_policy_hears_of_ends_with_the_engines_own_usage() -> None:
    router, _ = watched(workload(request(0.0, 1000, 10)))
    ((name, usage, seconds),) = router.ends
    assert (name, usage) == ("e0", Usage(1000, 10, 0))
    assert seconds > 0.1


def test_estimates_of_prompts_err_by_the_stated_amount_and_alike_under_all_policies() -> None:
    load = steady(400, 0.5)
    router, _ = watched(load, settings=Settings(estimate_error=0.1))
    again, _ = watched(load, settings=Settings(estimate_error=0.1))
    errors = np.log([each.prompt_tokens / 1000 for each in router.requests])
    assert float(errors.std()) == pytest.approx(0.1, rel=0.15)
    assert [each.prompt_tokens for each in router.requests] == [each.prompt_tokens for each in again.requests]


# What befalls a fleet


def test_what_an_engine_had_not_begun_when_it_died_is_served_elsewhere_and_the_rest_has_failed() -> None:
    load = workload(request(0.0, 1000, 1000), request(1.0, 20_000, 10))
    done = run(load, "1.5s kill e0")
    table = done.outcome.requests
    assert table.ok.tolist() == [False, True]
    assert table.engine[1] == 1
    assert table.attempts.tolist() == [1, 2]
    assert table.ended[0] == 1.5
    assert done.outcome.failures == {BROKEN: 1}


def test_a_dead_engine_refuses_one_connection_and_is_not_asked_again() -> None:
    router, done = watched(steady(10, 0.1), "0s kill e0")
    assert done.outcome.requests.ok.all()
    assert done.summary.retried == 1
    assert router.candidates[2] == ["e1"]


def test_without_any_engine_requests_fail_at_once() -> None:
    done = run(steady(3, 1.0), "0s kill e0", count=1)
    assert done.outcome.failures == {REFUSED: 1, NOT_SERVED: 2}
    assert done.summary.failed == 3
    assert math.isnan(done.summary.ttft.mean)
    again = run(workload(request(0.0, 20_000)), "1s kill e0", count=1)
    assert again.outcome.failures == {LOST: 1}


def test_a_killed_engine_stays_away_and_a_restarted_one_comes_back_when_it_has_loaded() -> None:
    load = steady(60, 1.0)
    killed, restarted = (run(load, f"10.5s {action} e0").outcome.requests for action in ("kill", "restart"))
    assert (killed.engine[11:] == 1).all()
    back = 10.5 + PROFILE.startup_s
    assert (restarted.engine[11 : int(back)] == 1).all()
    assert restarted.engine[-1] == 0


def test_a_spot_engine_is_drained_at_the_notice_and_then_gone() -> None:
    load = workload(request(0.0, 1000, 300), request(2.0, 1000, 9000), *(request(at) for at in (11.0, 12.0)))
    done = run(load, "10s reclaim e0 5s")
    table = done.outcome.requests
    assert table.ok.tolist() == [True, False, True, True]
    assert table.ended[1] == 15.0
    assert table.engine.tolist() == [0, 0, 1, 1]


def test_an_engine_that_joins_is_given_work_when_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    joining = fleet(1)
    monkeypatch.setattr("llmgate.sim.simulation.parse_specs", lambda text: joining)
    router, done = watched(steady(60, 1.0), "10s join 1xh100:m", count=1)
    assert [series.name for series in done.outcome.engines] == ["e0", "e0-0"]
    start = router.candidates.index(["e0", "e0-0"])
    assert 10 + PROFILE.startup_s <= done.outcome.requests.arrived[start] <= 10 + PROFILE.startup_s + 2


def test_a_slowed_engine_is_slow_until_it_is_not() -> None:
    load = workload(*(request(at, 1000, 100) for at in (0.0, 10.0, 30.0)))
    table = run(load, "9s slow e0 x3", "25s slow e0 x1").outcome.requests
    usual, slowed, again = (table.ended - table.arrived).tolist()
    assert slowed == pytest.approx(3 * usual, rel=1e-6)
    assert again == pytest.approx(usual, rel=1e-6)


def test_a_request_that_an_engine_does_not_begin_in_time_goes_elsewhere() -> None:
    load = workload(*(request(0.0, 2000, 3000) for _ in range(3)))
    done = run(load, settings=Settings(estimate_error=0.0, first_byte_timeout=5.0), max_running=2)
    table = done.outcome.requests
    assert table.ok.all()
    assert table.engine.tolist() == [0, 0, 1]
    assert table.first_token[2] > 5.0
    alone = run(load, count=1, settings=Settings(estimate_error=0.0, first_byte_timeout=5.0), max_running=2)
    assert alone.outcome.failures == {LATE: 1}


def test_a_request_that_fits_no_engine_has_failed() -> None:
    done = run(workload(request(0.0, 200_000), request(1.0)))
    assert done.outcome.failures == {TOO_LONG: 1}
    assert done.outcome.requests.attempts.tolist() == [1, 1]


# All policies


@pytest.mark.parametrize("policy", every_name())
def test_every_policy_serves_all_of_it(policy: str) -> None:
    load = conversations(12)
    done = simulate(load, fleet(3), policy)
    assert done.outcome.requests.ok.all()
    assert done.summary.requests == len(load.requests)
    assert done.summary.prefix_hit_ratio > 0.2


def test_affinity_finds_more_in_the_caches_than_taking_turns() -> None:
    load = conversations(25, blocks=60)
    hits = {name: simulate(load, fleet(4), name).summary.prefix_hit_ratio for name in ("round-robin", "oracle")}
    hits["prefix-affinity"] = simulate(load, fleet(4), "prefix-affinity").summary.prefix_hit_ratio
    assert hits["round-robin"] < hits["prefix-affinity"]
    assert hits["round-robin"] < hits["oracle"]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(registry.BUILT_IN)),
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 9000), st.integers(1, 300), st.integers(0, 5)),
        min_size=1,
        max_size=30,
    ),
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(("kill {}", "restart {}", "reclaim {} 2s", "slow {} x2"))),
        max_size=4,
    ),
    st.booleans(),
)
def test_every_request_ends_exactly_once_whatever_befalls_the_fleet(
    policy: str, requests: list[tuple[float, int, int, int]], strokes: list[tuple[float, str]], kv_events: bool
) -> None:
    load = workload(
        *(
            request(at, prompt, output, blocks=tuple(range(100 * stem, 100 * stem + min(prompt // 16, 100))))
            for at, prompt, output, stem in sorted(requests)
        )
    )
    incidents = [parse_incident(f"{at:f}s {stroke.format(f'e{n % 3}')}") for n, (at, stroke) in enumerate(strokes)]
    done = simulate(
        load, fleet(3, kv_tokens=20_000), policy, settings=Settings(kv_events=kv_events), incidents=incidents
    )
    table = done.outcome.requests
    assert not np.isnan(table.ended).any()
    assert sum(done.outcome.failures.values()) == len(table) - int(table.ok.sum())
    assert (table.first_token[table.ok] >= table.arrived[table.ok]).all()
    assert (table.ended[table.ok] >= table.first_token[table.ok]).all()


# The same again


def fingerprint(done: PolicyRun) -> str:
    """Of every bit of a result."""
    digest = hashlib.sha256(json.dumps(asdict(done.summary), sort_keys=True).encode())
    for array in (done.outcome.requests.first_token, done.outcome.requests.ended, done.outcome.requests.engine):
        digest.update(array.tobytes())
    for series in done.outcome.engines:
        digest.update(series.in_flight.tobytes() + series.kv_usage.tobytes())
    return digest.hexdigest()


FINGERPRINTS = """
from tests.sim.test_simulation import fingerprint
from llmgate.sim.policies import every_name
from llmgate.sim.run import simulate
from llmgate.sim.incidents import parse_incident
from tests.sim.make import conversations, fleet
for name in every_name():
    done = simulate(conversations(20), fleet(3), name, incidents=[parse_incident("2s kill e1")])
    print(fingerprint(done))
"""


def test_the_same_seed_gives_the_same_bits_whatever_the_process() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == len(every_name())


def test_another_seed_gives_another_run() -> None:
    one, other = (
        simulate(conversations(20), fleet(3), "random", settings=Settings(seed)).outcome.requests.engine
        for seed in (0, 1)
    )
    assert one.tolist() != other.tolist()


# What cannot be simulated


def test_models_that_nobody_serves_are_said() -> None:
    with pytest.raises(ValueError, match="requests for 'x', and the engines serve m only"):
        simulate(workload(request(model="x")), fleet(), "random")
    with pytest.raises(ValueError, match="the engines serve 2: m, n"):
        simulate(workload(request()), [*fleet(1), *fleet(1, model="n")], "random")
    with pytest.raises(ValueError, match="there is no engine"):
        simulate(workload(request()), [], "random")


def test_requests_go_to_engines_of_their_model() -> None:
    both = [fleet(1)[0], fleet(2, model="n")[1]]
    load = workload(*(request(at, model="mn"[at % 2]) for at in range(6)))
    assert simulate(load, both, "random").outcome.requests.engine.tolist() == [0, 1] * 3
