from __future__ import annotations

from benchmarks.peers.dynamo import KvCost
from llmgate.core.protocols import Candidates
from llmgate.engines.spec import parse_specs
from llmgate.sim.run import simulate
from llmgate.sim.settings import Settings
from llmgate.workloads.types import TraceRequest, Workload
from tests.benchmarks.peers.scene import Scene, counts, prompt


def blocks(scene: Scene, name: str) -> float:
    """Tokens of prompts in flight on the engine, shared ones once."""
    router, endpoint = scene.scheduler.router, scene.scheduler.pool.get(name)
    assert isinstance(router, KvCost)
    assert endpoint is not None
    return router._bytes.get(endpoint.slot, 0) / 4


def test_cached_prompts_attract_and_prompts_in_flight_repel() -> None:
    """A prompt of 128 tokens is 8 blocks. Where it is in flight already: 128 tokens ahead, 128 of its own less 128 that
    are cached, and no block more than the 8 that are taken: 16. Elsewhere: 128 tokens, 8 blocks: 16. So it is a tie
    until the first one answers; then it is 8 to 16."""
    scene = Scene(KvCost())
    first = scene.open(prompt(1, 2))
    assert {scene.scheduler.schedule(prompt(1, 2), 0.0).endpoint.name for _ in range(40)} == {"e0", "e1"}
    first.prefill_done()
    assert {scene.scheduler.schedule(prompt(1, 2), 0.0).endpoint for _ in range(40)} == {first.endpoint}


def test_a_block_that_requests_share_counts_once_and_until_the_last_of_them_ends() -> None:
    scene = Scene(KvCost(), size=1)
    first = scene.open(prompt(1, 2, tail=100))
    second = scene.open(prompt(1, 3))
    assert blocks(scene, "e0") == (3 * 256 + 100) / 4
    scene.finish(first)
    assert blocks(scene, "e0") == 2 * 256 / 4
    scene.finish(second)
    assert blocks(scene, "e0") == 0


def test_a_request_that_was_not_heard_of_for_five_minutes_counts_no_more() -> None:
    scene = Scene(KvCost(), size=1)
    scene.open(prompt(1, 2))
    scene.now = 300.0
    scene.open(prompt(3))
    assert blocks(scene, "e0") == 3 * 256 / 4
    scene.now = 301.0
    scene.scheduler.schedule(prompt(4), scene.now)
    assert blocks(scene, "e0") == 256 / 4


def test_what_was_sent_counts_as_cached_for_two_minutes() -> None:
    scene = Scene(KvCost(), size=2)
    home = scene.send(prompt(1, 2))
    router = scene.scheduler.router
    assert isinstance(router, KvCost)
    endpoints = list(scene.scheduler.pool)
    for now, tokens in ((120.0, 128.0), (120.1, 0.0)):
        cached = router.cached_tokens(prompt(1, 2, 3), Candidates(endpoints, [0, 0], now))
        assert {each.name: held for each, held in zip(endpoints, cached, strict=True)}[home] == tokens


def test_an_engine_that_leaves_takes_its_requests_along() -> None:
    scene = Scene(KvCost(), size=2)
    charge = scene.open(prompt(1, 2))
    router = scene.scheduler.router
    assert isinstance(router, KvCost)
    scene.scheduler.remove(charge.endpoint.name)
    assert not router._open
    assert not router._bytes
    scene.finish(charge)
    assert scene.send(prompt(1, 2)) != charge.endpoint.name


def test_with_kv_events_what_an_engine_holds_counts_as_cached_whoever_sent_it() -> None:
    """A prompt of 256 tokens of which e1 holds 192: 4 + 16 blocks there, 16 + 16 on e0."""
    fleet = parse_specs("2xh100:llama-3.1-8b")
    warm = TraceRequest(0.0, 192, 1, blocks=range(12))
    later = TraceRequest(10.0, 256, 1, blocks=range(16))
    other = TraceRequest(5.0, 256, 1, blocks=range(100, 116))
    for seed in range(5):
        settings = Settings(seed=seed, estimate_error=0.0)
        run = simulate(
            Workload("w", [warm, other, later]), fleet, "benchmarks.peers.dynamo:KvEvents", settings=settings
        )
        first, _, last = run.outcome.requests.engine.tolist()
        assert last == first
        assert run.outcome.requests.cached_tokens.tolist() == [0, 0, 192]


def test_equal_costs_are_drawn() -> None:
    sent = counts(Scene(KvCost(), size=4), [prompt(n) for n in range(400)])
    assert min(sent.values()) > 70
