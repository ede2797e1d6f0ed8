"""Engines that tell what their caches hold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmgate.core.protocols import Candidates
from llmgate.core.types import InferenceRequest
from llmgate.sim.incidents import parse_incident
from llmgate.sim.kv_events import prompt_blocks
from llmgate.sim.run import PolicyRun, simulate
from llmgate.sim.settings import Settings
from llmgate.sim.world import SeeingRouter
from llmgate.workloads.types import Workload
from tests.sim.make import conversations, fleet, request, workload

AT_ONCE = Settings(kv_events=True, kv_event_latency=0.0)


class Witness(SeeingRouter):
    """In turn, or to e0 as long as it may be chosen; notes what it was told, and what is true."""

    needs_prefix = True

    def __init__(self, *, in_turn: bool) -> None:
        self._in_turn = in_turn
        self.requests: list[InferenceRequest] = []
        self.told: list[dict[str, int]] = []
        self.true: list[dict[str, int]] = []
        self.waiting: list[dict[str, bool]] = []  # whether a request there has not begun to be answered

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, world = candidates.endpoints, self.world
        names = [endpoint.name for endpoint in endpoints]
        real = world.engine_request(request)
        engines = [world.engine(endpoint) for endpoint in endpoints]
        self.requests.append(request)
        self.told.append(dict(zip(names, candidates.cached_tokens, strict=True)))
        self.true.append({name: engine.cached_tokens(real) for name, engine in zip(names, engines, strict=True)})
        self.waiting.append({endpoint.name: endpoint.load.prefill_tokens > 0 for endpoint in endpoints})
        turn = len(self.requests) if self._in_turn else 0
        return [float((endpoint.slot + turn) % len(endpoints)) for endpoint in endpoints]


def witness(
    load: Workload, *at: str, in_turn: bool = False, settings: Settings = AT_ONCE, **profile: object
) -> tuple[Witness, PolicyRun]:
    router = Witness(in_turn=in_turn)
    incidents = [parse_incident(text) for text in at]
    return router, simulate(load, fleet(2, **profile), lambda: router, settings=settings, incidents=incidents)


def test_what_is_told_is_what_the_engine_holds_but_for_what_was_just_sent_there() -> None:
    load = conversations(20, turns=5, blocks=40)
    router, done = witness(load, in_turn=True, kv_tokens=20_000)
    quiet = 0
    for told, true, waiting in zip(router.told, router.true, router.waiting, strict=True):
        for name in told:
            assert told[name] >= true[name]
            if not waiting[name]:
                assert told[name] == true[name]
                quiet += true[name] > 0
    assert quiet > 20
    assert done.outcome.requests.ok.all()


def test_what_is_found_in_the_cache_is_what_was_expected() -> None:
    blocks = tuple(range(100))
    load = workload(request(0.0, 1600, blocks=blocks), request(5.0, 1700, blocks=blocks))
    router, done = witness(load)
    assert router.told[1] == {"e0": 1600, "e1": 0}
    assert done.outcome.requests.cached_tokens[1] == 1600


def test_a_block_is_known_when_its_event_has_come() -> None:
    blocks = tuple(range(100))
    load = workload(*(request(at, 1600, blocks=blocks) for at in (0.0, 3.0, 6.0)))
    router, _ = witness(load, settings=Settings(kv_events=True, kv_event_latency=5.0))
    assert [told["e0"] for told in router.told] == [0, 0, 1584]
    assert router.true[1]["e0"] == 1584


@pytest.mark.parametrize("action", ["restart", "kill", "reclaim"])
def test_what_a_dead_engine_held_is_forgotten(action: str) -> None:
    blocks = tuple(range(100))
    load = workload(*(request(at, 1601, blocks=blocks) for at in (0.0, 5.0, 40.0, 45.0)))
    router, _ = witness(load, f"10s {action} e0")
    assert router.told[1] == {"e0": 1600, "e1": 0}
    if action == "restart":  # it is back, and holds what it was sent since
        assert router.told[2] == {"e0": 0, "e1": 0}
        assert router.told[3] == {"e0": 1600, "e1": 0}
    else:
        assert router.told[2] == {"e1": 0}
        assert router.told[3] == {"e1": 1600}


def test_an_engine_that_joins_tells_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    joining = fleet(1)
    monkeypatch.setattr("llmgate.sim.simulation.parse_specs", lambda text: joining)
    blocks = tuple(range(100))
    load = workload(*(request(at, 1601, blocks=blocks) for at in (0.0, 40.0, 41.0, 45.0)))
    router, _ = witness(load, "1s join 1xh100:m", in_turn=True)
    assert len(router.told[1]) == 3
    assert router.told[3] == router.true[3]


def test_prompts_whose_ids_are_known_are_counted_exactly() -> None:
    router, _ = witness(workload(request(0.0, 1234)), settings=Settings(kv_events=True, estimate_error=0.5))
    assert router.requests[0].prompt_tokens == 1234


def test_small_blocks_are_put_together_as_the_engine_does() -> None:
    small = request(prompt=70, blocks=tuple(range(10)), block_tokens=8)
    assert prompt_blocks(small, 16) == (1, 3, 5, 7)
    assert prompt_blocks(small, 8) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert prompt_blocks(small, 12) == ()
    assert prompt_blocks(small, 4) == ()


def test_blocks_of_two_sizes_cannot_be_told_of() -> None:
    load = workload(request(blocks=(1,), block_tokens=16), request(blocks=(1,), block_tokens=32))
    with pytest.raises(ValueError, match="16 and 32 tokens"):
        simulate(load, fleet(), "expected-latency", settings=AT_ONCE)
    with pytest.raises(ValueError, match="kv_event_latency must be 0 seconds or more"):
        Settings(kv_event_latency=-1.0)
