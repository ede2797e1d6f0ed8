from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.engine_state import EngineState
from llmgate.core.latency import ATTENTION, CONTEXT, Line, Speed
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.routing.limits import check

PREFILL_TOKENS_PER_SECOND = 8000.0
STEP_SECONDS = 0.006
STEP_SECONDS_PER_SEQUENCE = 0.00035
"""Of an endpoint of weight 1, before anything was learnt: those of a model of 8 billion parameters on an A100, and of
the SGLang gateway's mock engine (lightseekorg/smg)."""


@dataclass
class ExpectedLatency(Router):
    """The least time that the answer is expected to take, and that it is expected to take from others, in seconds:

        ttft_weight · TTFT + e2e_weight · (TTFT + output tokens · step)
        + requests there · (prefill_harm · own prefill + decode_harm · tokens decoded beside them · own part of a step)
        + occupancy · (own prefill + output tokens · own part of a step)

    TTFT is the time until the prompts ahead are computed, then this prompt less what the engine holds of it, and, where
    the KV cache has no room for it, the wait for that. `step` is the time of a decode step of the batch that it joins.
    The second line is by how much it delays those that are there, the third the time that it takes from whoever comes
    next. Speeds are learnt for each endpoint (core/latency.py), from priors by its weight.

    Sources: work ahead and uncached prefill in seconds are Mooncake's and Preble's costs; the delay of those that are
    there is Preble's too; the room in the KV cache Llumnix's. Weights were tuned in the simulator (docs/benchmarks.md).
    """

    ttft_weight: float = 1.0
    e2e_weight: float = 1.0
    prefill_harm: float = 0.3
    decode_harm: float = 0.7
    occupancy: float = 1.0
    waiting_tokens: float = 1024.0
    tie_margin: float = 0.0

    needs_prefix = True

    def __post_init__(self) -> None:
        for name in ("ttft_weight", "e2e_weight", "prefill_harm", "decode_harm", "occupancy"):
            check(name, getattr(self, name), most=1e6)
        check("waiting_tokens", self.waiting_tokens, most=1e9)
        check("tie_margin", self.tie_margin, most=1)
        self._engines: dict[Endpoint, EngineState] = {}
        self._lines: dict[tuple[object, ...], tuple[Line, Line]] = {}  # prefill and step, of engines that are alike

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, cached, now = candidates
        prompt, output = request.prompt_tokens, request.expected_output_tokens
        mine = 1.0 + CONTEXT * (prompt + 0.5 * output)  # of the load of a step
        whole = self.ttft_weight + self.e2e_weight
        costs = []
        for endpoint, held in zip(endpoints, cached, strict=True):
            engine = self._engines.get(endpoint)
            if engine is None or engine.spec is not endpoint.spec:
                engine = self.engine(endpoint)
            load = endpoint.load
            prefill_fixed, prefill_slope, step_fixed, step_slope = engine.seconds(now)
            new = prompt - held if prompt > held else 1
            own = prefill_slope * new * (1.0 + ATTENTION * (prompt - 0.5 * new))
            ahead = engine.busy_until - now if engine.busy_until > now else 0.0
            booked = load.requests
            # in flight, or as many as there were at a time lately: a prefix that all share spreads before it queues
            there = max(booked, load.recent_tokens / load.RECENT_SECONDS * step_fixed)
            metrics = endpoint.metrics
            if metrics is not None and metrics.fresh(now):
                waiting = metrics.waiting or 0
                there = max(there, (metrics.running or 0) + waiting)
                ahead = max(ahead, waiting * self.waiting_tokens * prefill_slope)
            each = step_slope * mine
            seconds = step_fixed + step_slope * (there + CONTEXT * load.context_tokens) + each
            left = load.decode_tokens / booked if booked else output  # tokens of each of those that are there
            first = prefill_fixed + ahead + own
            if metrics is not None and (capacity := metrics.kv_capacity_tokens):
                in_use = endpoint.kv_in_use(now)
                if in_use + new > capacity:  # half of those there have ended after as many steps as each has left
                    first += 2.0 * left * seconds * (in_use + new - capacity) / (in_use + 1.0)
            beside = left if left < output else output
            cost = (
                whole * first
                + self.e2e_weight * output * seconds
                + booked * (self.prefill_harm * own + self.decode_harm * beside * each)
                + self.occupancy * (own + output * each)
            )
            costs.append(cost * endpoint.spec.weight / endpoint.weight)
        return costs

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self.engine(endpoint).booked(request, now)

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        if (engine := self._engines.get(endpoint)) is not None:
            engine.answered(request, endpoint, now)

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        if (engine := self._engines.get(endpoint)) is not None:
            engine.finished(request, endpoint, usage, now)

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        if (engine := self._engines.get(endpoint)) is not None:
            engine.ended(request, now)

    def removed(self, endpoint: Endpoint) -> None:
        self._engines.pop(endpoint, None)

    def engine(self, endpoint: Endpoint) -> EngineState:
        """What has been inferred of an endpoint so far. Those of one kind of GPU with the same models are alike; one
        whose weight was changed begins anew."""
        spec, engine = endpoint.spec, self._engines.get(endpoint)
        if engine is not None and engine.spec is spec:
            return engine
        kind = (spec.gpu, spec.weight, *sorted(endpoint.models.keys() - endpoint.adapters.keys()))
        lines = self._lines.get(kind)
        if lines is None:
            prefill = Line(STEP_SECONDS / spec.weight, 1.0 / (PREFILL_TOKENS_PER_SECOND * spec.weight))
            step = Line(STEP_SECONDS / spec.weight, STEP_SECONDS_PER_SEQUENCE / spec.weight)
            lines = self._lines[kind] = prefill, step
        if engine is None:
            engine = self._engines[endpoint] = EngineState(Speed(lines[0]), Speed(lines[1]))
        elif engine.prefill.line is not lines[0]:
            engine.prefill, engine.step = Speed(lines[0]), Speed(lines[1])
        engine.spec = spec
        return engine
