"""A measured run: requests out, records in, until all is done or somebody ends it early."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmgate.bench.body import BodyForm
from llmgate.bench.client import EndpointClient
from llmgate.bench.prompts import PromptWriter
from llmgate.bench.record import Record
from llmgate.bench.schedule import Load
from llmgate.workloads.types import TraceRequest

EARLY = 0.002  # s; timers of the event loop are due to the millisecond, the rest is waited for turn by turn


class RunClock:
    """Seconds since `start()`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def start(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start

    async def wait(self, until: float) -> None:
        """See Wait: within a turn of the event loop."""
        left = until - self()
        if left > EARLY:
            await asyncio.sleep(left - EARLY)
        while self() < until:  # noqa: ASYNC110  (time is what is waited for)
            await asyncio.sleep(0)  # the loop keeps reading meanwhile


@dataclass(frozen=True, slots=True)
class Warmup:
    """The first `requests` requests, and all that are meant for the first `seconds`, are sent but not measured."""

    requests: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Progress:
    """What a display shows while the run goes on."""

    total: int
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    output_tokens: int = 0
    recent: deque[Record] = field(default_factory=lambda: deque(maxlen=100))  # the last that ended


class Run:
    """`times`: an open loop; else `concurrency`: a closed one. `model` of each request is one of `models`, or the first
    of them."""

    def __init__(
        self,
        endpoint: EndpointClient,
        requests: Sequence[TraceRequest],
        writer: PromptWriter,
        form: BodyForm,
        clock: RunClock,
        *,
        models: Sequence[str],
        warmup: Warmup,
        times: Sequence[float | None] | None = None,
        concurrency: int = 1,
    ) -> None:
        self.records: list[Record] = []
        self.progress = Progress(len(requests))
        self.duration_s = 0.0
        self.cpu_s = 0.0  # of this process, all threads
        self.ended_early = False
        self._endpoint = endpoint
        self._requests = requests
        self._writer = writer
        self._form = form
        self._clock = clock
        self._models = models
        self._warmup = warmup
        self._times = times
        self._concurrency = concurrency
        self._task: asyncio.Task[None] | None = None

    async def run(self, duration: float | None = None) -> list[Record]:
        """The records in the order of sending. After `duration` seconds, or on `end_early`, what is in flight is closed
        and recorded as aborted."""
        load = Load(self._requests, self._send, self._clock, self._clock.wait)
        loop = load.closed_loop(self._concurrency) if self._times is None else load.open_loop(self._times)
        cpu = time.process_time()
        self._clock.start()
        self._task = task = asyncio.ensure_future(loop)
        timer = asyncio.get_running_loop().call_later(duration, self.end_early) if duration else None
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            if timer is not None:
                timer.cancel()
        self.duration_s = self._clock()
        self.cpu_s = time.process_time() - cpu
        if not task.cancelled():
            task.result()  # raises what no request should have raised
        return self.records

    def end_early(self) -> None:
        """Callable from a signal handler of the event loop."""
        if self._task is not None and not self._task.done():
            self.ended_early = True
            self._task.cancel()

    async def _send(self, index: int, at: float) -> None:
        request = self._requests[index]
        warmup = index < self._warmup.requests or at < self._warmup.seconds
        record = Record(index, at, request.prompt_tokens, warmup, streamed=self._form.stream)
        model = self._models[0] if request.model is None or request.model not in self._models else request.model
        prompt = self._writer.prompt(request, index)
        body = self._form.body(model, prompt, request.output_tokens, request.priority)
        self.records.append(record)
        progress = self.progress
        progress.in_flight += 1
        try:
            await self._endpoint.measure(record, self._form.path, body, request.session)
        finally:
            progress.in_flight -= 1
        progress.done += 1
        progress.failed += not record.good
        progress.output_tokens += record.output_tokens
        progress.recent.append(record)
