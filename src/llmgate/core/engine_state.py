"""What the gateway infers of one engine from outside: how fast it is, and when it will have done what it was sent."""

from __future__ import annotations

from dataclasses import dataclass

from llmgate.core.latency import Speed, decode_load, prefill_work
from llmgate.core.types import Endpoint, InferenceRequest, Usage

SHORTEST = 0.002
"""Seconds: first tokens closer together than this came from one step, and are observed as one."""

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
    is when those that were sent will be done, at the speed that was learnt. Each first token sets it right."""

    __slots__ = ("_observed_from", "_open", "_unobserved", "busy_until", "computed", "prefill", "step")

    def __init__(self, prefill: Speed, step: Speed) -> None:
        self.prefill = prefill
        self.step = step
        self.busy_until = 0.0
        self.computed = 0.0  # seconds of prefill that it has done: they stall the decoding of others
        self._open: dict[InferenceRequest, _Open] = {}
        self._observed_from = 0.0  # since when the work that is next to be answered has been under way
        self._unobserved = 0.0  # work of first tokens that came at once

    def seconds(self) -> tuple[float, float, float, float]:
        """The fixed part and the slope of prefill (by work) and of a decode step (by load)."""
        prefill, step = self.prefill, self.step
        first, then = prefill.factor, step.factor
        return first * prefill.line.fixed, first * prefill.line.slope, then * step.line.fixed, then * step.line.slope

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
