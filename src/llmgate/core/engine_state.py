"""What the gateway infers of one engine from outside: how fast it is, and when it will have done what it was sent."""

from __future__ import annotations

from dataclasses import dataclass

from llmgate.core.latency import Speed, decode_load, prefill_work
from llmgate.core.types import Endpoint, EndpointSpec, InferenceRequest, Usage

SHORTEST = 0.002
"""Seconds: first tokens closer together than this came from one step, and are observed as one."""

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
    that are behind it. A prompt whose answer is not streamed is taken to be done when it was expected to be."""

    __slots__ = (
        "_hidden",
        "_late",
        "_observed_from",
        "_open",
        "_unobserved",
        "_waiting",
        "busy_until",
        "computed",
        "prefill",
        "spec",
        "step",
    )

    def __init__(self, prefill: Speed, step: Speed) -> None:
        self.prefill = prefill
        self.step = step
        self.spec: EndpointSpec | None = None  # by which the two were chosen
        self.busy_until = 0.0
        self.computed = 0.0  # seconds of prefill that it has done: they stall the decoding of others
        self._open: dict[InferenceRequest, _Open] = {}
        self._waiting: dict[InferenceRequest, _Open] = {}  # of these, in order, those with a first token to come
        self._late = 0.0  # seconds by which all that wait are later than was first expected
        self._observed_from = 0.0  # since when the work that is next to be answered has been under way
        self._unobserved = 0.0  # work of first tokens that came at once
        self._hidden = 0.0  # work of prompts whose first token cannot be observed, behind the last of `_waiting`

    @property
    def open_requests(self) -> int:
        """That were booked and have not ended."""
        return len(self._open)

    def seconds(self, now: float) -> tuple[float, float, float, float]:
        """The fixed part and the slope of prefill (by work) and of a decode step (by load)."""
        prefill, step = self.prefill, self.step
        first = prefill.factor if prefill.factor == 1.0 else prefill.factor_at(now)
        then = step.factor if step.factor == 1.0 else step.factor_at(now)
        return first * prefill.line.fixed, first * prefill.line.slope, then * step.line.fixed, then * step.line.slope

    def booked(self, request: InferenceRequest, now: float) -> None:
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
