"""The engine model driven by the wall's clock: what it has done by now goes out, and it is looked at again in time.

There is one timer. It rings when the engine's next event is due and, while anything streams, once a tick; the engine's
time is always reckoned from its start, so that no delay adds up, and a request counts as arrived when its last byte
did, however long it took to read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineEvent, EngineRequest, EventKind, Gauges
from llmgate.sim.http_engine.alarm import Alarm
from llmgate.sim.http_engine.clock import EngineClock
from llmgate.sim.http_engine.errors import failed
from llmgate.sim.http_engine.job import Job
from llmgate.sim.http_engine.kv_events import AllBlocksCleared, BlockBook, Event
from llmgate.sim.http_engine.metrics import Metrics

SleepState = Literal["awake", "weights_offloaded", "discard_all"]
SLEEP_LEVELS: tuple[SleepState, ...] = ("awake", "weights_offloaded", "discard_all")
"""By vLLM's level; level 0 only stops scheduling, and the metric then says what it said before: here, awake."""


class EngineService:
    """`publish` gets KV events in batches; without it none are kept. `make_alarm` gets what the alarm shall call.

    The alarm is set `lead_s` early: waking up and running the model takes about that long, and what is ready sooner
    waits, with the processor kept, until it is due.
    """

    def __init__(
        self,
        engine: Engine,
        clock: EngineClock,
        metrics: Metrics,
        make_alarm: Callable[[Callable[[], None]], Alarm],
        *,
        tick_s: float,
        lead_s: float = 0.0,
        publish: Callable[[list[Event]], None] | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.metrics = metrics
        self.sleep_level: int | None = None
        self._tick_s = tick_s
        self._lead_s = lead_s
        self._publish = publish
        self._book = BlockBook(engine.profile.block_tokens) if publish is not None else None
        self._jobs: dict[EngineRequest, Job] = {}
        self._streaming: dict[Job, None] = {}  # those that may have tokens to write
        self._unscheduled: dict[Job, None] = {}
        self._held: list[Job] = []  # came while it slept
        self._leaving: list[EngineRequest] = []  # aborted; the step in which they are may still cache their blocks
        self._cleared = False  # the cache, since the last batch of KV events
        self._now = 0.0
        self._looked = 0.0  # when it was last looked at
        self._due = self._due_wall = math.inf  # when the engine is to be looked at, by its own time and the wall's
        self._before = Gauges(0, 0, 0.0, 0, 0, 0, 0, 0)  # counters of engines before a reset
        self._alarm = make_alarm(self.look)

    # requests

    def submit(self, job: Job, arrived: float) -> None:
        """`arrived`: wall time."""
        job.arrived = max(self.clock.at(arrived), self._now)
        job.exchange.gone = lambda: self.abort(job)
        if self.sleep_level is not None:
            self._held.append(job)
            return
        self._enter(job, job.arrived)
        self._arm()

    def abort(self, job: Job) -> None:
        """Its client has gone."""
        if job in self._held:
            self._held.remove(job)
        elif job.request in self._jobs:
            self.look()
            if job.request in self._jobs:  # it had not ended in the meantime
                self.engine.abort(job.request, self._now)
                self._close(job)
                self._let_go()
                self._arm()

    @property
    def open_requests(self) -> int:
        return len(self._jobs) + len(self._held)

    def lora_adapters(self) -> tuple[set[str], set[str]]:
        """Those of running requests, those of waiting ones."""
        running = {job.lora for job in self._jobs.values() if job not in self._unscheduled}
        waiting = {job.lora for job in self._unscheduled}
        return {lora[1] for lora in running if lora}, {lora[1] for lora in waiting if lora}

    def gauges(self) -> Gauges:
        """Now, with counters that go on over resets."""
        self.look()
        now, before = self.engine.gauges(), self._before
        return now._replace(
            preemptions=now.preemptions + before.preemptions,
            prefix_queries=now.prefix_queries + before.prefix_queries,
            prefix_hits=now.prefix_hits + before.prefix_hits,
            prompt_tokens=now.prompt_tokens + before.prompt_tokens,
            generated_tokens=now.generated_tokens + before.generated_tokens,
        )

    # states

    def sleep(self, level: int) -> None:
        """Open requests end with `abort`, the cache is empty, and what comes from now on waits. Like vLLM's mode
        `abort`."""
        self.look()
        jobs = list(self._jobs.values())
        tokens = [self.engine.generated(job.request) for job in jobs]
        self._reset()
        for job, produced in zip(jobs, tokens, strict=True):
            self._close(job)
            job.finish(self._now, produced, "abort")
        self.sleep_level = level
        self._arm()

    def wake(self) -> None:
        self.look()
        self.sleep_level = None
        held, self._held = self._held, []
        for job in held:
            self._enter(job, self._now)
        self._arm()

    @property
    def sleep_state(self) -> SleepState:
        return SLEEP_LEVELS[self.sleep_level or 0]

    def reset_prefix_cache(self) -> bool:
        """False while requests hold blocks: as vLLM, it then does nothing."""
        self.look()
        if self._jobs or self._leaving:
            return False
        self._reset()
        return True

    def set_slowdown(self, factor: float) -> None:
        self.look()
        self.clock.set_slowdown(factor)
        self.metrics.pace = self.clock.pace
        self._arm()

    def close(self) -> None:
        self._alarm.close()

    # the engine's time

    def look(self) -> None:
        """Let out what has become of the requests by now, and be called again in time."""
        wall = self.clock.wall()
        due_wall = self._due_wall
        due = self._due if wall >= due_wall - self._lead_s else 0.0
        self._now = now = max(self.clock.at(wall), due, self._now)
        events = self.engine.advance(now)
        self._tell_cache()
        self._note_scheduled()
        if due:
            while self.clock.wall() < due_wall:  # at most lead_s
                pass
        for event in events:
            self._take(event)
        for job in self._streaming:
            self._count(job, self.engine.generated(job.request), now)
            job.write(job.counted)
        for job in [job for job in self._streaming if job.cut]:
            self.engine.abort(job.request, now)
            self._close(job)
        self._let_go()
        self._looked = now
        self._arm()

    def _take(self, event: EngineEvent) -> None:
        job = self._jobs.get(event.request)
        if job is None:  # aborted in the step that did this
            return
        if event.kind is EventKind.FIRST_TOKEN:
            job.first = job.last = event.at
            job.cached = event.cached_tokens
            job.counted = 1
            self._scheduled(job)
            self.metrics.first_token(event.at - job.arrived)
            if job.stream is not None:
                self._streaming[job] = None
        elif event.kind is EventKind.PREEMPTED:
            job.preemptions += 1
        elif event.kind is EventKind.FINISHED:
            self._count(job, job.request.output_tokens, event.at)
            self._close(job)
            self.metrics.finished(job, event.at)
            job.finish(event.at, job.request.output_tokens, job.reason)
        else:
            self._close(job)
            job.fail(failed())

    def _count(self, job: Job, tokens: int, at: float) -> None:
        """Tokens after the first: how far they lie apart is known on average since the last look."""
        new = tokens - job.counted
        if new > 0:
            self.metrics.decoded(new, at - job.last)
            job.counted, job.last = tokens, at

    def _note_scheduled(self) -> None:
        for job in [job for job in self._unscheduled if self.engine.prefilled(job.request)]:
            self._scheduled(job)

    def _scheduled(self, job: Job) -> None:
        """It is known only when its first step ends: that step began when it was last looked at, or later."""
        if job in self._unscheduled:
            del self._unscheduled[job]
            job.scheduled = max(job.arrived, self._looked)

    def _enter(self, job: Job, now: float) -> None:
        """The engine takes it. Steps that end before `now` have been looked at or are not looked at yet: the timer
        rings for them."""
        self._now = max(now, self._now)
        self._jobs[job.request] = job
        self._unscheduled[job] = None
        if self._book is not None:
            self._book.opened(job.request.blocks, job.ids, job.lora, job.salt)
        self.engine.submit(job.request, self._now)
        job.start()

    def _close(self, job: Job) -> None:
        """It is none of the engine's any more."""
        job.exchange.gone = None
        self._jobs.pop(job.request, None)
        self._streaming.pop(job, None)
        self._unscheduled.pop(job, None)
        if self._book is not None:
            self._leaving.append(job.request)

    def _let_go(self) -> None:
        if self._book is None or not self._leaving:
            return
        still = [request for request in self._leaving if self.engine.prefilled(request)]
        for request in self._leaving:
            if not self.engine.prefilled(request):
                self._book.closed(request.blocks)
        self._leaving = still

    def _reset(self) -> None:
        before = self.gauges()
        self.engine.reset(self._now)
        self._before = before
        self._cleared = True
        if self._book is not None:
            self.engine.take_cache_events()
            self._book.clear()

    def _tell_cache(self) -> None:
        if self._book is None or self._publish is None:
            return
        events = self._book.events(self.engine.take_cache_events())
        if events:  # a cleared cache is told of with the next step, as vLLM does
            cleared: Iterable[Event] = [AllBlocksCleared()] if self._cleared else []
            self._cleared = False
            self._publish([*cleared, *events])

    def _arm(self) -> None:
        self._due = self.engine.next_event()
        self._due_wall = self.clock.wall_at(self._due)
        tick = self.clock.wall() + self._tick_s if self._streaming else math.inf
        self._alarm.set(min(self._due_wall - self._lead_s, tick))
