"""What the gateway infers of one engine from outside: how fast it is, and when it will have done what it was sent."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from llmgate.core.latency import Speed, decode_load, prefill_work
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest, Usage

SHORTEST = 0.002
"""Seconds: first tokens closer together than this came from one step, and are observed as one."""

LOOK_SECONDS = 0.5
"""How old what was worked out may get where nothing has changed: loads fade, readings age, slow starts go on."""

FEWEST_TOKENS = 8
"""Answers with fewer tokens say little about the time of a step."""


@dataclass(slots=True)
class _Open:
    """A request that it was sent and that has not ended."""

    work: float  # of its uncached prompt
    seconds: float  # that this was expected to take
    done_at: float  # when it was expected to be done
    answered_at: float | None = None
    load: float = 0.0  # of decode steps, when its answer began
    computed: float = 0.0  # EngineState.computed, then


class EngineState:
    """Engines compute prompts in the order in which they come, so the prompts ahead are a clock that runs: `busy_until`
    is when those that were sent will be done, at the speed that was learnt. Each first token sets it right.

    What `look` works out, in seconds and tokens: a prefill takes `prefill_fixed` + `prefill_slope` × work, and cannot
    begin before `least_ahead`; a decode step takes `step_seconds` now, and `step_slope` × load more for another
    request; each of the `requests` there has `left_tokens` to come; `used_tokens` of the KV cache are in use,
    `room_tokens` free; costs there count `share` times, which is more than once in a slow start.
    """

    __slots__ = (
        "_kv_tokens",
        "_metrics",
        "_observed_from",
        "_open",
        "_seen_until",
        "_unobserved",
        "busy_until",
        "computed",
        "least_ahead",
        "left_tokens",
        "prefill",
        "prefill_fixed",
        "prefill_slope",
        "requests",
        "room_tokens",
        "share",
        "step",
        "step_seconds",
        "step_slope",
        "used_tokens",
    )

    def __init__(self, prefill: Speed, step: Speed) -> None:
        self.prefill = prefill
        self.step = step
        self._kv_tokens = -1  # of the load, when it was last looked at
        self._metrics: EndpointMetrics | None = None
        self._seen_until = -inf
        self.busy_until = 0.0
        self.computed = 0.0  # seconds of prefill that it has done: they stall the decoding of others
        self._open: dict[InferenceRequest, _Open] = {}
        self._observed_from = 0.0  # since when the work that is next to be answered has been under way
        self._unobserved = 0.0  # work of first tokens that came at once

    def look(self, endpoint: Endpoint, now: float, waiting_tokens: float) -> None:
        """Work out what only changes with the endpoint's load and readings, unless that has been done for them. It is
        asked for each request and each endpoint, and differs but for few of these."""
        load, metrics = endpoint.load, endpoint.metrics
        if self._kv_tokens == load.kv_tokens and self._metrics is metrics and now < self._seen_until:
            return
        self._kv_tokens, self._metrics, self._seen_until = load.kv_tokens, metrics, now + LOOK_SECONDS
        factor, line = self.prefill.factor, self.prefill.line
        self.prefill_fixed, self.prefill_slope = factor * line.fixed, factor * line.slope
        factor, line = self.step.factor, self.step.line
        fixed, slope = factor * line.fixed, factor * line.slope
        booked = self.requests = load.requests
        self.left_tokens = load.decode_tokens / booked if booked else 0.0
        # in flight, or as many as there were at a time lately: a prefix that all share spreads before it queues
        there = max(booked, load.recent_tokens / load.RECENT_SECONDS * fixed)
        self.least_ahead, self.used_tokens, self.room_tokens = 0.0, endpoint.kv_in_use(now), inf
        if metrics is not None:
            if metrics.fresh(now):
                waiting = metrics.waiting or 0
                there = max(there, (metrics.running or 0) + waiting)
                self.least_ahead = waiting * waiting_tokens * self.prefill_slope
            if metrics.kv_capacity_tokens is not None:
                self.room_tokens = metrics.kv_capacity_tokens - self.used_tokens
        self.step_slope, self.step_seconds = slope, fixed + slope * decode_load(there, load.context_tokens)
        self.share = endpoint.spec.weight / endpoint.weight

    def booked(self, request: InferenceRequest, now: float) -> None:
        prompt = request.prompt_tokens
        work = prefill_work(max(prompt - request.cached_tokens, 1), prompt)
        seconds = self.prefill.factor * self.prefill.line.slope * work
        if self.busy_until <= now:
            self.busy_until = now
            self._observed_from = now
            self._unobserved = 0.0
        self.busy_until += seconds
        self._open[request] = _Open(work, seconds, self.busy_until)

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        mine = self._open.get(request)
        if mine is None or mine.answered_at is not None or not request.stream:
            return
        mine.answered_at = now
        mine.load = self._load(endpoint)
        self.computed += mine.seconds
        mine.computed = self.computed
        self.busy_until += now - mine.done_at  # what is behind it was put off, or came forward, by as much
        took = now - self._observed_from
        self._unobserved += mine.work
        if took > SHORTEST:
            self.prefill.learn(self._unobserved, took, now)
            self._observed_from, self._unobserved = now, 0.0

    def finished(self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, now: float) -> None:
        mine = self._open.get(request)
        if mine is None or usage is None or usage.completion_tokens < FEWEST_TOKENS:
            return
        began = mine.done_at if mine.answered_at is None else mine.answered_at
        load = self._load(endpoint) if mine.answered_at is None else (mine.load + self._load(endpoint)) / 2
        stalled = self.computed - mine.computed if mine.answered_at is not None else 0.0
        if self.busy_until > now and self._observed_from > began:  # and of the one under way
            stalled += now - self._observed_from
        took = now - began
        self.step.learn(load, max(took - stalled, 0.2 * took) / (usage.completion_tokens - 1), now)

    def ended(self, request: InferenceRequest, now: float) -> None:
        mine = self._open.pop(request, None)
        if mine is not None and mine.answered_at is None and mine.done_at > now:
            self.busy_until -= min(mine.seconds, mine.done_at - now)

    def _load(self, endpoint: Endpoint) -> float:
        return decode_load(endpoint.load.requests, endpoint.load.context_tokens)
