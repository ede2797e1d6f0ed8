"""One engine as vLLM V1 behaves: continuous batching, chunked prefill, paged KV cache, preemption by recompute.

The rules are those of vllm/v1/core/sched/scheduler.py of vLLM 0.32. A step gives every decoding sequence one token,
then goes on with prompts that are computed in part, then admits waiting requests in order while the step's budget of
tokens, the number of running sequences and the memory allow; a request is admitted only if its whole prompt fits. When
decoding needs a block and none is free, the request that arrived last (or has the lowest priority) gives up its blocks
and waits again at its place in the queue; nobody is admitted in such a step.

With asynchronous scheduling a step is composed while the one before it runs: what arrives in that time, and room that
is made in it, has to wait for one step more, unless nothing else is to be done.

What a step costs says EngineProfile. Steps follow each other without a gap while there is work. A step that begins at
`t` has in it what was submitted by `t`, or with asynchronous scheduling by the beginning of the step before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmgate.engines.decode import DecodeBatch
from llmgate.engines.kv_cache import BlockPool
from llmgate.engines.profile import EngineProfile
from llmgate.engines.queue import WaitingQueue
from llmgate.engines.request import CacheEvent, EngineEvent, EngineRequest, EventKind, Gauges
from llmgate.engines.sequence import Sequence, State, open_sequence


class Engine:
    """`now` (seconds) never runs backwards; between calls nothing happens. The same calls give the same results, and
    calls of `advance` more or less often give the same times, bit for bit."""

    def __init__(self, profile: EngineProfile, *, cache_events: bool = False, priority_queue: bool = False) -> None:
        if profile.step_s <= 0 or min(profile.block_tokens, profile.max_batch_tokens, profile.max_running) < 1:
            raise ValueError(f"profile {profile.name}: step_s, block_tokens and what a step may hold must be positive")
        if profile.kv_tokens < profile.block_tokens:
            raise ValueError(f"profile {profile.name}: a KV cache of {profile.kv_tokens} tokens holds no block")
        self.profile = profile
        self._cache_events = cache_events
        self._by_priority = priority_queue
        self._max_running = min(profile.max_running, profile.max_batch_tokens)
        self._now = -math.inf
        self._forget()

    def _forget(self) -> None:
        self._pool = BlockPool(self.profile.kv_tokens // self.profile.block_tokens, log=self._cache_events)
        self._batch = DecodeBatch(self.profile)
        self._open: dict[EngineRequest, Sequence] = {}
        self._running: dict[Sequence, None] = {}  # in order of admission
        self._prefilling: dict[Sequence, None] = {}
        self._queue = WaitingQueue(by_priority=self._by_priority)
        self._held_up = False  # the head of the queue has no room until something ends
        self._steps = 0  # that have ended
        self._room_from = 0  # how many of them must have ended before room that was made is used
        self._time = -math.inf  # when the last step ended
        self._end: float | None = None  # of the step that runs
        self._computing: list[Sequence] = []  # those whose prompts that step goes on with
        self._aborted: list[Sequence] = []
        self._events: list[EngineEvent] = []
        self._cache_log: list[CacheEvent] = []
        self._arrivals = 0
        self._preemptions = self._queries = self._hits = self._prompt_tokens = self._generated = 0

    # What the shells do to it

    def submit(self, request: EngineRequest, now: float) -> None:
        """It has arrived. A request that can never fit gets the event REJECTED."""
        self._run(now)
        if request in self._open:
            raise ValueError(f"request {request.id} is open already")
        sequence = open_sequence(request, self._arrivals, self.profile.block_tokens)
        self._arrivals += 1
        tokens = request.prompt_tokens + request.output_tokens
        if tokens > self.profile.max_model_len or self._blocks(tokens - 1) > self._pool.total:
            self._events.append(EngineEvent(now, EventKind.REJECTED, request, 0))
            return
        if not self._open:
            self._time = max(self._time, now)
        elif self.profile.async_scheduling:
            sequence.ready = self._steps + (1 if self._end is None else 2)
        self._open[request] = sequence
        self._queue.push(sequence)
        self._held_up = False

    def abort(self, request: EngineRequest, now: float) -> bool:
        """Its client has gone. False if it had ended before. Takes effect when the running step ends; no event."""
        self._run(now)
        sequence = self._open.get(request)
        if sequence is None or sequence.aborted:
            return False
        sequence.aborted = True
        if self._end is None or sequence.state is State.WAITING:
            self._let_go([sequence])
        else:
            self._aborted.append(sequence)
        return True

    def advance(self, now: float) -> list[EngineEvent]:
        """Run all steps that end at `now` or before. Events in order of time."""
        self._run(now)
        events, self._events = self._events, []
        return events

    def reset(self, now: float) -> list[EngineRequest]:
        """It crashed and forgot all, its counters too: requests that were open, in order of arrival."""
        self._run(now)
        lost = [request for request, sequence in self._open.items() if not sequence.aborted]
        happened = self._events
        self._forget()
        self._events = happened
        return lost

    # What they may ask it

    def next_event(self) -> float:
        """When to call `advance` next if nothing else is submitted or aborted; inf when the engine is idle. No event
        comes before it; it may be earlier than the next event where prompts are computed or memory is short."""
        if self._events:
            return self._events[0].at
        if not self._open:
            return math.inf
        admits_in = self._admits_in()
        if self._end is not None and (self._prefilling or self._aborted or admits_in <= 1):
            return self._end
        if self._end is None and (self._prefilling or not admits_in):
            return max(self._time + self.profile.step_s, math.nextafter(self._time, math.inf))
        batch = self._batch
        paid = 0 if self._end is None else 1  # the running step has its blocks
        wanted = batch.next_finish() - batch.steps
        if paid and wanted == 1:
            return batch.end_of(batch.steps + 1)
        within = int(min(wanted, admits_in))
        steps = batch.steps_with(self._pool.free + (batch.blocks_for(1) if paid else 0), within)
        bound = batch.end_of(batch.steps + steps)
        return bound if steps == wanted else math.nextafter(bound, math.inf)  # somebody is preempted or admitted then

    def generated(self, request: EngineRequest) -> int:
        """Answer tokens that it has produced by the last step that `advance` ran; 0 before the first, and for a request
        that is not open."""
        sequence = self._open.get(request)
        if sequence is None:
            return 0
        decoded = self._batch.steps - sequence.joined if sequence.state is State.DECODE else 0
        return sequence.generated + decoded

    def prefilled(self, request: EngineRequest) -> int:
        """Prompt tokens computed or found in the cache so far; 0 for a request that is not open."""
        sequence = self._open.get(request)
        return min(sequence.computed, request.prompt_tokens) if sequence is not None else 0

    def gauges(self) -> Gauges:
        return Gauges(
            running=len(self._running),
            waiting=len(self._queue),
            kv_usage=self._pool.held / self._pool.total,
            preemptions=self._preemptions,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
        )

    def cached_tokens(self, request: EngineRequest) -> int:
        """Prompt tokens of `request`, submitted or not, that the prefix cache holds now: what an oracle sees."""
        sequence = self._open.get(request) or open_sequence(request, -1, self.profile.block_tokens)
        size = sequence.block_tokens
        return size * self._pool.match(sequence.ids, (request.prompt_tokens - 1) // size)

    def take_cache_events(self) -> list[CacheEvent]:
        """Since the last call; kept only if the engine was made with `cache_events=True`."""
        events, self._cache_log = self._cache_log, []
        return events

    # Steps

    def _run(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time runs backwards: {now} after {self._now}")
        self._now = now
        while self._open:
            if self._end is not None:
                if self._end > now:
                    return
                self._end_step()
            elif self._time >= now:
                return
            elif self._prefilling or self._admits_in() == 0:
                self._begin_step()
            else:
                self._decode(now)

    def _admits_in(self) -> float:
        """In how many steps the head of the queue can be admitted, if only decoding is done until then; inf if not
        before something ends."""
        if not self._queue or self._held_up or len(self._running) >= self._max_running:
            return math.inf
        if not self._running or not self.profile.async_scheduling:
            return 0
        return max(self._queue.head().ready - self._steps, self._room_from - self._steps, 0)

    def _decode(self, now: float) -> None:
        """Nothing but decoding is due: all steps that end by `now` at once, then begin one that does not."""
        batch, pool = self._batch, self._pool
        steps = batch.steps_with(pool.free, int(min(batch.next_finish() - batch.steps, self._admits_in())))
        if not steps:
            self._begin_step()
            return
        steps = batch.steps_until(now, steps)
        if steps > 1 and pool.drops_any(batch.blocks_for(steps), batch.expected):
            steps = 1  # a cached copy of what will be filled is dropped: before that or after makes a difference
        pool.take(batch.blocks_for(max(steps, 1)))
        self._note_cache(self._time)
        if steps:
            self._steps += steps
            self._decoded(steps, batch.end_of(batch.steps + steps))
        else:
            self._end = batch.end_of(batch.steps + 1)

    def _begin_step(self) -> None:
        """Compose the step that begins where the last one ended."""
        preempted = self._make_room()
        batch, profile = self._batch, self.profile
        self._pool.take(batch.blocks_for(1))
        budget = profile.max_batch_tokens - batch.size
        tokens = pairs = 0
        for sequence, chunk in self._chunks(budget, preempted):
            start = sequence.computed
            tokens += chunk
            pairs += chunk * start + chunk * (chunk - 1) // 2
            sequence.computed += chunk
            self._name_blocks(sequence)
            self._computing.append(sequence)
        batch.begin(self._time)
        self._end = batch.end_of(batch.steps + 1)
        if tokens:
            self._end += profile.prefill_step_s + profile.prefill_kv_token_s * batch.read
            self._end += profile.prefill_token_s * tokens + profile.prefill_pair_s * pairs
        self._note_cache(self._time)

    def _chunks(self, budget: int, preempted: bool) -> Iterator[tuple[Sequence, int]]:
        """Prompts to be computed in this step, with the number of tokens, for which blocks are taken."""
        for sequence in list(self._prefilling):
            chunk = min(sequence.target - sequence.computed, budget)
            if not chunk:
                return
            blocks = self._blocks(sequence.computed + chunk) - self._blocks(sequence.computed)
            while blocks > self._pool.free:
                preempted = True
                if self._preempt(paid=True) is sequence:
                    return
            self._pool.take(blocks)
            budget -= chunk
            yield sequence, chunk
        while budget and not preempted and self._admits_in() == 0:
            admitted = self._admit()
            if admitted is None:
                return
            chunk = min(admitted.target - admitted.computed, budget)
            self._pool.take(self._blocks(admitted.computed + chunk) - self._blocks(admitted.computed))
            budget -= chunk
            yield admitted, chunk

    def _admit(self) -> Sequence | None:
        """The head of the queue, if there is room for all of its prompt."""
        sequence = self._queue.head()
        pool = self._pool
        hit = pool.match(sequence.ids, (sequence.target - 1) // sequence.block_tokens)
        found = list(sequence.ids[:hit])
        needed = self._blocks(sequence.target) - hit * sequence.cost + pool.idle_cost(found)
        if needed > pool.free:
            self._held_up = True
            return None
        self._queue.pop()
        pool.hold(found)
        sequence.held = found
        sequence.named = hit
        sequence.computed = hit * sequence.block_tokens
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self._queries += sequence.target
            self._hits += sequence.computed
        sequence.state = State.PREFILL
        self._running[sequence] = None
        self._prefilling[sequence] = None
        return sequence

    def _end_step(self) -> None:
        end, self._end = self._end, None
        assert end is not None
        self._steps += 1
        computed, self._computing = self._computing, []
        size = self._batch.size
        self._decoded(1 if size else 0, end)
        for sequence in computed:
            if sequence.computed == sequence.target and sequence.state is State.PREFILL:
                self._sampled(sequence, end)
        if self._aborted:
            aborted, self._aborted = self._aborted, []
            self._let_go([sequence for sequence in aborted if sequence.state is not State.ENDED])
        if computed:
            self._batch.begin(end)
            self._held_up = False  # the head of the queue may find more of its prompt in the cache

    def _sampled(self, sequence: Sequence, at: float) -> None:
        """Its prompt is computed: a token comes of it."""
        del self._prefilling[sequence]
        request = sequence.request
        sequence.generated += 1
        self._generated += 1
        if sequence.generated == 1:
            self._prompt_tokens += request.prompt_tokens
            if not sequence.aborted:
                self._events.append(EngineEvent(at, EventKind.FIRST_TOKEN, request, sequence.cached or 0))
        if sequence.generated == request.output_tokens:
            sequence.state = State.ENDED
            self._finish(sequence, at)
        else:
            self._batch.join(sequence)

    def _decoded(self, steps: int, end: float) -> None:
        """All in the batch have gone on by so many steps; the last one ended at `end`."""
        batch = self._batch
        batch.advance(steps)
        self._generated += steps * batch.size
        self._time = end
        for step, sequence, key in batch.filled():
            if self._pool.store(key, sequence.cost):
                sequence.held.append(key)
            if self._cache_events:
                self._pool.end_run()
                self._note_cache(min(batch.end_of(step), end))
        finished = batch.finished()
        for sequence in finished:
            self._finish(sequence, end)
        if finished:
            batch.begin(end)

    def _finish(self, sequence: Sequence, at: float) -> None:
        if not sequence.aborted:
            self._events.append(EngineEvent(at, EventKind.FINISHED, sequence.request, sequence.cached or 0))
        self._release(sequence)
        del self._open[sequence.request]

    # Room

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.profile.block_tokens)

    def _name_blocks(self, sequence: Sequence) -> None:
        """Blocks that it fills can be found from now on, by others in the same step too, as in vLLM."""
        filled = min(sequence.computed // sequence.block_tokens, len(sequence.ids))
        for key in sequence.ids[sequence.named : filled]:
            if self._pool.store(key, sequence.cost):
                sequence.held.append(key)
        sequence.named = max(sequence.named, filled)
        self._pool.end_run()

    def _make_room(self) -> bool:
        """Preempt until the sequences that decode can go on by a step. Whether any was."""
        preempted = False
        while self._batch.blocks_for(1) > self._pool.free:
            self._preempt()
            preempted = True
        return preempted

    def _preempt(self, *, paid: bool = False) -> Sequence:
        """The last to be admitted, or the lowest in priority, waits again; what it had computed stays in the cache as
        long as there is room. `paid`: the batch has its blocks of the step that is composed."""
        running = self._running
        victim = max(running, key=lambda s: s.key) if self._by_priority else next(reversed(running))
        decoding = victim.state is State.DECODE
        if decoding:
            if paid and self._batch.crosses(victim):
                self._pool.give(1)
            self._batch.leave(victim)
        self._release(victim)
        victim.state = State.WAITING
        victim.target = victim.request.prompt_tokens + victim.generated
        victim.computed = victim.named = 0
        self._queue.push(victim)
        self._preemptions += 1
        self._events.append(EngineEvent(self._time, EventKind.PREEMPTED, victim.request, victim.cached or 0))
        return victim

    def _release(self, sequence: Sequence) -> None:
        """Give up its place and its blocks."""
        if self._held_up or len(self._running) >= self._max_running:
            self._room_from = self._steps + 1
        del self._running[sequence]
        self._prefilling.pop(sequence, None)
        nameless = self._blocks(sequence.computed) - len(sequence.held) * sequence.cost
        self._pool.give(nameless)
        self._pool.drop(sequence.held)
        sequence.held = []
        self._held_up = False

    def _let_go(self, aborted: list[Sequence]) -> None:
        for sequence in aborted:
            if sequence.state is State.WAITING:
                self._queue.left()
                self._held_up = False
            else:
                if sequence.state is State.DECODE:
                    self._batch.leave(sequence)
                self._release(sequence)
                self._batch.begin(self._time)
            sequence.state = State.ENDED
            del self._open[sequence.request]

    def _note_cache(self, at: float) -> None:
        if not self._cache_events:
            return
        for stored, ids in self._pool.take_log():
            self._cache_log.append(CacheEvent(at, ids, ()) if stored else CacheEvent(at, (), ids))
