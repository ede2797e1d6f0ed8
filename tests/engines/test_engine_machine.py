"""Whatever is done to an engine, its books balance and every request ends once."""

from __future__ import annotations

import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmgate.engines.engine import Engine
from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import EngineEvent, EngineRequest, EventKind
from llmgate.engines.sequence import State

ENDS = (EventKind.FINISHED, EventKind.REJECTED)


def small_profile(**changes: float) -> EngineProfile:
    """Room for 24 blocks of 4 tokens, so that memory, the budget and the places run out often."""
    values = {"kv_tokens": 96, "block_tokens": 4, "max_batch_tokens": 24, "max_running": 6, "max_model_len": 90}
    costs = {
        "step_s": 0.01,
        "sequence_s": 0.001,
        "kv_token_s": 0.0001,
        "prefill_token_s": 0.002,
        "prefill_pair_s": 0.00001,
    }
    return EngineProfile(name="small", model="m", **{**costs, **values, **changes})  # type: ignore[arg-type]


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    """Chains of few branches, so that beginnings are shared; blocks as large as the engine's, larger, smaller."""
    prompt = draw(st.integers(1, 60))
    output = draw(st.integers(1, 40))
    size = draw(st.sampled_from((2, 4, 8)))
    whole = (prompt + output) // size
    blocks: list[int] = []
    for _ in range(draw(st.integers(0, whole))):
        blocks.append(hash((size, *blocks, draw(st.integers(0, 1) if len(blocks) == 2 else st.just(0)))))
    return EngineRequest(
        draw(st.integers(0, 10**9)), prompt, output, tuple(blocks), size, priority=draw(st.integers(0, 2))
    )


class EngineMachine(RuleBasedStateMachine):
    priority_queue = False
    async_scheduling = False

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(
            small_profile(async_scheduling=self.async_scheduling), cache_events=True, priority_queue=self.priority_queue
        )
        self.now = 0.0
        self.open: list[EngineRequest] = []
        self.began: set[EngineRequest] = set()
        self.cache: set[int] = set()
        self.last = 0.0

    def _take(self, events: list[EngineEvent]) -> None:
        for event in events:
            assert self.last <= event.at <= self.now
            self.last = event.at
            assert event.request in self.open, "it had ended before"
            if event.kind is EventKind.FIRST_TOKEN:
                assert event.request not in self.began
                self.began.add(event.request)
            if event.kind is EventKind.FINISHED:
                assert event.request in self.began
            if event.kind in ENDS:
                self.open.remove(event.request)

    @rule(request=requests())
    def submit(self, request: EngineRequest) -> None:
        self.open.append(request)
        self.engine.submit(request, self.now)

    @rule(seconds=st.floats(0, 0.5))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._take(self.engine.advance(self.now))

    @rule()
    def advance_to_the_next_event(self) -> None:
        due = self.engine.next_event()
        if due < math.inf:
            assert due >= self.last
            self.now = max(self.now, due)
            self._take(self.engine.advance(self.now))
            assert self.engine.next_event() > due

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.open))
        self._take(self.engine.advance(self.now))
        if self.engine.abort(request, self.now):
            self.open.remove(request)
        else:
            assert request not in self.open
        assert not self.engine.abort(request, self.now)

    @rule()
    def reset(self) -> None:
        self._take(self.engine.advance(self.now))
        assert self.engine.reset(self.now) == self.open
        self.open, self.cache = [], set()
        assert self.engine.next_event() == math.inf

    @invariant()
    def memory_is_accounted_for(self) -> None:
        engine, pool = self.engine, self.engine._pool
        batch = engine._batch
        held: dict[int, int] = {}
        nameless = 0
        for sequence in engine._running:
            computed = sequence.computed
            if sequence.state is State.DECODE:
                computed += batch.steps - sequence.joined
            slots = -(-computed // 4)
            if engine._end is not None and sequence.state is State.DECODE:
                slots += batch.crosses(sequence)  # the running step has its blocks
            nameless += slots - sequence.cost * len(sequence.held)
            for key in sequence.held:
                held[key] = held.get(key, 0) + 1
        entries = pool._entries
        assert {key: entry[0] for key, entry in entries.items() if entry[0]} == held
        assert pool.held == nameless + sum(entries[key][1] for key in held)
        assert nameless >= 0
        assert pool._idle_cost == sum(entries[key][1] for key in pool._idle)
        assert set(pool._idle) == entries.keys() - held.keys()
        assert pool.held + pool._idle_cost <= pool.total
        assert 0 <= engine.gauges().kv_usage <= 1

    @invariant()
    def gauges_agree_with_what_is_open(self) -> None:
        gauges = self.engine.gauges()
        assert gauges.running <= 6
        assert gauges.running + gauges.waiting >= sum(not self._rejected(request) for request in self.open)

    def _rejected(self, request: EngineRequest) -> bool:
        return request.prompt_tokens + request.output_tokens > 90

    @invariant()
    def the_batch_adds_up(self) -> None:
        engine, batch = self.engine, self.engine._batch
        decoding = [s for s in engine._running if s.state is State.DECODE]
        assert batch.size == len(decoding)
        assert batch.read == sum(s.computed + batch.steps - s.joined + 1 for s in decoding)
        assert sum(batch._phases) == batch.size
        assert min(batch._phases) >= 0

    @invariant()
    def cache_events_tell_what_the_cache_holds(self) -> None:
        for event in self.engine.take_cache_events():
            assert not self.cache.intersection(event.stored)
            self.cache.update(event.stored)
            self.cache.difference_update(event.removed)
        if self.engine._end is None:
            assert self.cache == self.engine._pool._entries.keys()

    def teardown(self) -> None:
        while (due := self.engine.next_event()) < math.inf:
            self.now = max(self.now, due)
            self._take(self.engine.advance(self.now))
        assert not self.open
        assert self.engine._pool.held == 0
        assert self.engine.gauges().waiting == 0
        super().teardown()


class PriorityEngineMachine(EngineMachine):
    priority_queue = True


class AsyncEngineMachine(EngineMachine):
    async_scheduling = True


TestAsyncEngine = AsyncEngineMachine.TestCase
TestAsyncEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPriorityEngine = PriorityEngineMachine.TestCase
TestPriorityEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=80, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 0.3), requests(), st.booleans()), max_size=14),
    seed=st.integers(0, 99),
    ahead=st.booleans(),
)
def test_looking_more_often_changes_nothing(
    arrivals: list[tuple[float, EngineRequest, bool]], seed: int, ahead: bool
) -> None:
    random = Random(seed)
    profile = small_profile(async_scheduling=ahead)

    def run(pieces: bool) -> list[EngineEvent]:
        engine, now, events = Engine(profile), 0.0, list[EngineEvent]()
        for gap, request, leaves in arrivals:
            if pieces:
                for at in sorted(now + random.random() * gap for _ in range(random.randrange(9))):
                    events += engine.advance(at)
                    engine.next_event()
            now += gap
            events += engine.advance(now)
            engine.submit(request, now)
            if leaves:
                engine.abort(arrivals[0][1], now)
        while pieces and (due := engine.next_event()) < math.inf:
            events += engine.advance(due)
        return events + engine.advance(1e6)

    assert run(pieces=True) == run(pieces=False)


@settings(max_examples=80, deadline=None)
@given(arrivals=st.lists(st.tuples(st.floats(0, 0.3), requests()), max_size=14), ahead=st.booleans())
def test_the_next_event_is_never_passed(arrivals: list[tuple[float, EngineRequest]], ahead: bool) -> None:
    engine, now = Engine(small_profile(async_scheduling=ahead)), 0.0
    for gap, request in [*arrivals, (1e6, None)]:
        while (due := engine.next_event()) <= now + gap:
            assert due >= now
            now, gap = due, now + gap - due
            before = math.nextafter(due, -math.inf)
            if before >= engine._now:
                assert all(event.kind is EventKind.PREEMPTED for event in engine.advance(before))
            for event in engine.advance(due):
                assert event.at == due or event.kind is EventKind.PREEMPTED
        now += gap
        engine.advance(now)
        if request is not None:
            engine.submit(request, now)
