"""The whole of a measurement: prelude, run, summary. What `llmgate bench` calls."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from llmgate.bench.arrivals import arrival_times
from llmgate.bench.body import CHAT, BodyForm
from llmgate.bench.client import EndpointClient
from llmgate.bench.histogram import require_hdrhistogram
from llmgate.bench.prelude import find_form, find_models, parse_url
from llmgate.bench.prompts import PromptWriter, Sizing
from llmgate.bench.record import Record
from llmgate.bench.result import Result
from llmgate.bench.run import Progress, Run, RunClock, Warmup
from llmgate.bench.slo import Slo
from llmgate.bench.summary import summarise
from llmgate.bench.tokenizer import exact_writer
from llmgate.upstream.base import Timeouts
from llmgate.upstream.native import NativeClient
from llmgate.workloads.types import Workload

CONNECT_TIMEOUT = 10.0  # s
Display = Callable[[Progress, RunClock], Any]
"""Given a run's progress and clock, an async context manager that shows them while it is open."""


@dataclass(frozen=True, slots=True)
class Options:
    """A closed loop with `concurrency`, else an open one: by `rate`, else by the workload's own times."""

    url: str
    workload: Workload
    rate: float | None = None
    concurrency: int | None = None
    burstiness: float = 1.0
    rate_scale: float = 1.0
    endpoint: str = CHAT
    stream: bool = True
    ignore_eos: bool = True
    extra_body: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    tokenizer: str | None = None
    api_key: str = field(default="", repr=False)
    timeout: float = 600.0  # s, to the head of an answer and between its bytes
    duration: float | None = None  # s
    warmup: Warmup = field(default_factory=Warmup)
    slo: Slo | None = None
    seed: int = 0  # of arrivals
    prompt_seed: int = 0  # of texts: with another one, nothing is in the engine's cache from an earlier run

    def parameters(self) -> dict[str, Any]:
        """What the result file says of them: no secret, nothing of this machine."""
        return {
            "url": self.url,
            "workload": self.workload.name,
            "requests": len(self.workload.requests),
            "rate": self.rate,
            "concurrency": self.concurrency,
            "burstiness": self.burstiness,
            "rate_scale": self.rate_scale,
            "endpoint": self.endpoint,
            "stream": self.stream,
            "ignore_eos": self.ignore_eos,
            "extra_body": self.extra_body,
            "tokenizer": self.tokenizer and self.tokenizer.rstrip("/").rpartition("/")[2],
            "duration_s": self.duration,
            "warmup_requests": self.warmup.requests,
            "warmup_s": self.warmup.seconds,
            "slo": self.slo.bounds() if self.slo else None,
            "seed": self.seed,
            "prompt_seed": self.prompt_seed,
        }


async def measure(options: Options, display: Display) -> tuple[Result, list[Record]]:
    """Runs the load; SIGINT ends it early, with what was measured so far. Raises BenchError."""
    require_hdrhistogram()
    target = parse_url(options.url)
    _allow_many_connections()
    clock = RunClock()
    client = NativeClient()
    timeouts = Timeouts(CONNECT_TIMEOUT, options.timeout, options.timeout)
    endpoint = EndpointClient(client, target, list(_headers(options.api_key)), timeouts, clock)
    try:
        models = await find_models(endpoint, options.model, options.url)
        run, form_notes = await _prepare(options, endpoint, models, clock)
        async with display(run.progress, clock):
            with _interruptible(run.end_early):
                records = await run.run(options.duration)
    finally:
        await client.aclose()
    result = summarise(
        records,
        model=models[0],
        parameters=options.parameters(),
        slo=options.slo,
        open_loop=options.concurrency is None,
        ended_early=run.ended_early,
        run_s=run.duration_s,
        cpu_s=run.cpu_s,
        notes=form_notes,
    )
    return result, records


async def _prepare(
    options: Options, endpoint: EndpointClient, models: Sequence[str], clock: RunClock
) -> tuple[Run, list[str]]:
    form = BodyForm(options.endpoint, options.stream, ignore_eos=options.ignore_eos, extra=options.extra_body)
    writer = PromptWriter(Sizing(), options.prompt_seed)
    form, sizing, notes = await find_form(endpoint, form, models[0], writer)
    if options.tokenizer is not None:
        writer = exact_writer(options.tokenizer, chat=options.endpoint == CHAT, seed=options.prompt_seed)
    elif sizing is not None:
        writer = PromptWriter(sizing, options.prompt_seed)
    else:
        notes.append(
            "the server does not tell how it counts words: one was taken for a token; --tokenizer makes it exact"
        )
    requests = options.workload.requests
    times = None
    if options.concurrency is None:
        times = arrival_times(
            requests,
            random.Random(options.seed),
            rate=options.rate,
            burstiness=options.burstiness,
            rate_scale=options.rate_scale,
        )
    run = Run(
        endpoint,
        requests,
        writer,
        form,
        clock,
        models=models,
        warmup=options.warmup,
        times=times,
        concurrency=options.concurrency or 1,
    )
    return run, notes


def _headers(api_key: str) -> Iterator[tuple[bytes, bytes]]:
    yield b"content-type", b"application/json"
    yield b"accept", b"text/event-stream, application/json"
    yield b"user-agent", b"llmgate-bench"
    if api_key:
        yield b"authorization", b"Bearer " + api_key.encode()


def _allow_many_connections() -> None:
    """An open loop may have thousands of requests in flight, each on a connection of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _interruptible(end_early: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, end_early)
    except (RuntimeError, ValueError):  # not in the main thread: nobody can press Ctrl-C there
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
