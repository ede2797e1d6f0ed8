from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from llmgate.core.engine_state import EngineState
from llmgate.core.latency import Line, Speed, decode_load, prefill_work
from llmgate.core.protocols import Candidates, Router
from llmgate.core.slo import Correction, Prediction, Slo
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.routing.limits import LAST_RESORT, check

PREFILL_TOKENS_PER_SECOND = 8000.0
STEP_SECONDS = 0.006
STEP_SECONDS_PER_SEQUENCE = 0.00035
"""Of an endpoint of weight 1, before anything was learnt: those of a model of 8 billion parameters on an A100, and of
the SGLang gateway's mock engine (lightseekorg/smg)."""

MOST_COMPUTING = 0.8
"""The part of the time that an engine is at most taken to compute prompts in: one with more to do would queue them."""

NO_CORRECTIONS = Correction(), Correction()

STEP_DOUBT = 20.0
"""The fixed part of a step is mostly the time to read the weights: 9 times as long for 70 billion parameters. Held to
the prior, it would be made up for by too steep a slope, and a long context would seem to cost twice what it does."""


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
        # the candidates of the last request, a tuple of the pool's that mostly is that of the next, and their engines
        self._aligned: tuple[Sequence[Endpoint], Sequence[EngineState]] = (), ()
        self._corrections: dict[Endpoint, tuple[Correction, Correction]] = {}  # of predicted TTFT and TPOT
        self._lines: dict[tuple[object, ...], tuple[Line, Line]] = {}  # prefill and step, of engines that are alike

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, cached, now = candidates
        if endpoints is not self._aligned[0]:
            self._aligned = endpoints, [self.engine(endpoint) for endpoint in endpoints]
        prompt, output = request.prompt_tokens, request.expected_output_tokens
        mine = decode_load(1.0, prompt + 0.5 * output)
        own = mine * output
        last, uncached, work = 0, prompt, prefill_work(prompt, prompt)
        costs = []
        for endpoint, engine, held in zip(endpoints, self._aligned[1], cached, strict=True):
            if now >= engine.seen_until or engine.metrics is not endpoint.metrics:
                self._look(engine, endpoint, now)
            if held != last:  # most hold as much of it as the one before
                last, uncached = held, prompt - held
                work = prefill_work(uncached if uncached > 1 or not held else 1, prompt)
            ahead = engine.busy_until - now
            if ahead < engine.least_ahead:
                ahead = engine.least_ahead
            if uncached > engine.room_tokens:
                ahead += self._until_room(engine, uncached, output, mine)
            per_work, per_second, fixed, per_token, per_own, per_beside = engine.terms
            left = engine.left_tokens
            beside = mine * (left if left < output else output)
            costs.append(
                per_work * work + per_second * ahead + fixed + per_token * output + per_own * own + per_beside * beside
            )
        return costs if request.slo is None else self._within(request.slo, request, candidates, costs)

    def _look(self, engine: EngineState, endpoint: Endpoint, now: float) -> None:
        """Sum up the cost for whatever request comes: what of it is to be multiplied by its work, the seconds ahead, 1,
        its output, its load on the steps of its own output, and on those of others beside it."""
        engine.look(endpoint, now, self.waiting_tokens)
        share, there, slope = engine.share, engine.requests, engine.share * engine.step_slope
        whole = self.ttft_weight + self.e2e_weight
        engine.terms = (
            share * engine.prefill_slope * (whole + self.occupancy + there * self.prefill_harm),
            share * whole,
            share * whole * engine.prefill_fixed,
            share * self.e2e_weight * engine.step_seconds,
            slope * (self.e2e_weight + self.occupancy),
            slope * there * self.decode_harm,
        )

    def predict(self, request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float) -> Prediction:
        """By the same terms as the cost, without its weights and the caution of a slow start; corrected by what came of
        earlier predictions. Steps are put off by the prompts that will come: the part of the time for which the
        engine has computed prompts of late."""
        engine = self.engine(endpoint)
        self._look(engine, endpoint, now)
        prompt, output = request.prompt_tokens, request.expected_output_tokens
        uncached = prompt - cached_tokens
        room = uncached <= engine.room_tokens
        ahead = max(engine.busy_until - now, engine.least_ahead)
        if not room:
            ahead += self._until_room(engine, uncached, output, decode_load(1.0, prompt + 0.5 * output))
        work = prefill_work(max(uncached, 1) if cached_tokens else prompt, prompt)
        ttft = ahead + engine.prefill_fixed + engine.prefill_slope * work
        step = engine.step_seconds + engine.step_slope * decode_load(1.0, prompt + 0.5 * output)
        computing = endpoint.load.recent_tokens / endpoint.load.RECENT_SECONDS * engine.prefill_slope
        tpot = step / (1.0 - min(computing, MOST_COMPUTING))
        first, between = self._corrections.get(endpoint) or NO_CORRECTIONS
        return Prediction(ttft * first.factor, tpot * between.factor, room, (ttft, tpot))

    def observed(self, endpoint: Endpoint, predicted: Prediction, ttft: float, tpot: float | None) -> None:
        if predicted.raw is None:
            return
        first, between = self._corrections.setdefault(endpoint, (Correction(), Correction()))
        first.learn(predicted.raw[0], ttft)
        if tpot is not None:
            between.learn(predicted.raw[1], tpot)

    def _within(
        self, slo: Slo, request: InferenceRequest, candidates: Candidates, costs: Sequence[float]
    ) -> Sequence[float]:
        """Those that are predicted to miss a target come last; if all are, nothing is changed. It is looked no further
        than to the cheapest that is not, and those that count as equal to it: for most requests, at one."""
        late: list[int] = []
        limit = inf
        for index in sorted(range(len(costs)), key=costs.__getitem__):
            cost = costs[index]
            if cost > limit:
                break
            endpoint, held = candidates.endpoints[index], candidates.cached_tokens[index]
            if self.predict(request, endpoint, held, candidates.now).misses(slo):
                late.append(index)
            elif limit == inf:
                limit = cost + abs(cost) * self.tie_margin
        if limit == inf or not late:
            return costs
        put_off = list(costs)
        for index in late:
            put_off[index] += LAST_RESORT
        return put_off

    def _until_room(self, engine: EngineState, tokens: int, output: int, mine: float) -> float:
        """Seconds until its KV cache has room: half of those there have ended after as many steps as each has left.
        Those that others sent there are taken to have as many as this request."""
        lacking = (tokens - engine.room_tokens) / (engine.used_tokens + 1.0)
        step = engine.step_seconds + engine.step_slope * mine
        return 2.0 * lacking * (engine.left_tokens or output) * step

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
        self._aligned = (), ()
        self._engines.pop(endpoint, None)
        self._corrections.pop(endpoint, None)

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
            step = Line(STEP_SECONDS / spec.weight, STEP_SECONDS_PER_SEQUENCE / spec.weight, fixed_doubt=STEP_DOUBT)
            lines = self._lines[kind] = prefill, step
        if engine is None:
            engine = self._engines[endpoint] = EngineState(Speed(lines[0]), Speed(lines[1]))
        elif engine.prefill.line is not lines[0]:
            engine.prefill, engine.step = Speed(lines[0]), Speed(lines[1])
        engine.follow(spec)
        return engine
