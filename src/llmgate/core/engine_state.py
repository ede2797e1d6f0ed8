"""What the gateway infers of one engine from outside: how fast it is, and when it will have done what it was sent."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from llmgate.core.latency import Speed, decode_load, prefill_work
from llmgate.core.types import Endpoint, EndpointMetrics, EndpointSpec, InferenceRequest, Usage

SHORTEST = 0.002
"""Seconds: first tokens closer together than this came from one step, and are observed as one."""

LOOK_SECONDS = 0.5
"""How old what was worked out may get where nothing has changed: loads fade, readings age, slow starts go on."""

FEWEST_TOKENS = 8
"""Answers with fewer tokens say little about the time of a step."""


@dataclass(slots=True)
class _Open:
    """A request that it was sent and that has not ended."""

    work: float  # of its uncached prompt, and of prompts just ahead of it whose first token cannot be observed
    seconds: float  # that its own prompt was expected to take
    done_at: float  # when it is expected to be done; if it is streamed, plus EngineState._late
    answered_at: float | None = None
    load: float = 0.0  # of decode steps, when its answer began
    computed: float = 0.0  # EngineState.computed, then


class EngineState:
    """Engines compute prompts in the order in which they come, so the prompts ahead are a clock that runs: `busy_until`
    is when those that were sent will be done, at the speed that was learnt. Each first token sets it right, for all
    that are behind it. A prompt whose answer is not streamed is taken to be done when it was expected to be.

    What `look` works out, in seconds and tokens: a prefill takes `prefill_fixed` + `prefill_slope` × work, and cannot
    begin before `least_ahead`; a decode step takes `step_seconds` now, and `step_slope` × load more for another
    request; each of the `requests` there has `left_tokens` to come; `used_tokens` of the KV cache are in use,
    `room_tokens` free; costs there count `share` times, which is more than once in a slow start.
    """

    __slots__ = (
        "_hidden",
        "_late",
        "_observed_from",
        "_open",
        "_unobserved",
        "_waiting",
        "busy_until",
        "computed",
        "least_ahead",
        "left_tokens",
        "metrics",
        "prefill",
        "prefill_fixed",
        "prefill_slope",
        "requests",
        "room_tokens",
        "seen_until",
        "share",
        "spec",
        "step",
        "step_seconds",
        "step_slope",
        "terms",
        "used_tokens",
    )

    def __init__(self, prefill: Speed, step: Speed) -> None:
        self.prefill = prefill
        self.step = step
        self.spec: EndpointSpec | None = None  # by which the two were chosen
        self.metrics: EndpointMetrics | None = None  # when it was last looked at
        self.seen_until = -inf
        self.terms: tuple[float, ...] = ()  # what the policy made of what was seen
        self.busy_until = 0.0
        self.computed = 0.0  # seconds of prefill that it has done: they stall the decoding of others
        self._open: dict[InferenceRequest, _Open] = {}
        self._waiting: dict[InferenceRequest, _Open] = {}  # of these, in order, those with a first token to come
        self._late = 0.0  # seconds by which all that wait are later than was first expected
        self._observed_from = 0.0  # since when the work that is next to be answered has been under way
        self._unobserved = 0.0  # work of first tokens that came at once
        self._hidden = 0.0  # work of prompts whose first token cannot be observed, behind the last of `_waiting`

    def follow(self, spec: EndpointSpec) -> None:
        """The endpoint has this specification from now on."""
        self.spec = spec
        self.seen_until = -inf

    def look(self, endpoint: Endpoint, now: float, waiting_tokens: float) -> None:
        """Work out what only changes with the endpoint's load and readings. It need not be done again before
        `seen_until` for the same `metrics`: what is booked there, and what ends, puts an end to that time."""
        load, metrics = endpoint.load, endpoint.metrics
        self.metrics = metrics
        self.seen_until = now + LOOK_SECONDS
        factor, line = self.prefill.factor_at(now), self.prefill.line
        self.prefill_fixed, self.prefill_slope = factor * line.fixed, factor * line.slope
        factor, line = self.step.factor_at(now), self.step.line
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

    @property
    def open_requests(self) -> int:
        """That were booked and have not ended."""
        return len(self._open)

    def booked(self, request: InferenceRequest, now: float) -> None:
        self.seen_until = -inf
        prompt = request.prompt_tokens
        work = prefill_work(max(prompt - request.cached_tokens, 1), prompt)
        seconds = self.prefill.factor_at(now) * self.prefill.line.slope * work
        if self.busy_until <= now:
            if self._waiting:  # what should be done and is not, will be at once
                self._late += now - self.busy_until
            else:
                self._observed_from = now
                self._late = self._unobserved = self._hidden = 0.0
            self.busy_until = now
        self.busy_until += seconds
        self._hidden += work
        mine = self._open[request] = _Open(self._hidden, seconds, self.busy_until)
        if request.stream:
            mine.done_at -= self._late
            self._waiting[request] = mine
            self._hidden = 0.0

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        mine = self._waiting.pop(request, None)
        if mine is None:
            return
        mine.answered_at = now
        mine.load = self._load(endpoint)
        self.computed += mine.seconds
        mine.computed = self.computed
        late = now - (mine.done_at + self._late)
        if late < 0.0 and self._overtook(mine):
            self._forgo(mine.done_at, mine.seconds)
        else:
            self.busy_until += late
            self._late += late
        took = now - self._observed_from
        self._unobserved += mine.work
        if took > SHORTEST:
            self.prefill.learn(self._unobserved, took, now)
            self._observed_from, self._unobserved = now, 0.0

    def finished(self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, now: float) -> None:
        mine = self._open.get(request)
        if mine is None or usage is None or usage.completion_tokens < FEWEST_TOKENS:
            return
        if mine.answered_at is None:
            began, load, stalled = mine.done_at, self._load(endpoint), 0.0
        else:
            began = mine.answered_at
            load = (mine.load + self._load(endpoint)) / 2
            stalled = self.computed - mine.computed
        if self.busy_until > now and self._observed_from > began:  # and of the one under way
            stalled += now - self._observed_from
        took = now - began
        self.step.learn(load, max(took - stalled, 0.2 * took) / (usage.completion_tokens - 1), now)

    def ended(self, request: InferenceRequest, now: float) -> None:
        self.seen_until = -inf
        mine = self._open.pop(request, None)
        if mine is None:
            return
        if mine.answered_at is None:
            done_at = mine.done_at if self._waiting.pop(request, None) is None else mine.done_at + self._late
            if done_at > now:
                self._forgo(done_at - self._late, min(mine.seconds, done_at - now))
        if not self._open and self.busy_until > now:
            self.busy_until = now

    def _overtook(self, mine: _Open) -> bool:
        """Whether a prompt that came before has not been answered: it is still ahead."""
        first = next(iter(self._waiting.values()), None)
        return first is not None and first.done_at < mine.done_at

    def _forgo(self, done_at: float, seconds: float) -> None:
        """So much work that was to be done at `done_at` is not ahead any more: those behind it come forward."""
        self.busy_until -= seconds
        for other in self._waiting.values():
            if other.done_at > done_at:
                other.done_at -= seconds

    def _load(self, endpoint: Endpoint) -> float:
        return decode_load(endpoint.load.requests, endpoint.load.context_tokens)
