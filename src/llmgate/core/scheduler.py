"""The one object that every shell holds: it admits, chooses, books and settles. Synchronous, clock-free, seeded.

A shell calls, for each request: `admit`; then for each attempt `schedule` and `book` without an await between them, and
`settle` on every way out. `now` never runs backwards.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from llmgate.core.beginnings import KnownBeginnings
from llmgate.core.blocks import BlockIndex
from llmgate.core.booked import Bookings
from llmgate.core.choice import pick
from llmgate.core.comparison import Comparison
from llmgate.core.errors import ModelNotFound, NoReadyEndpoint
from llmgate.core.estimate import ByteClasses, PromptEstimator, byte_classes
from llmgate.core.explain import Explanation, explain
from llmgate.core.ledger import Charge, Ledger
from llmgate.core.output import OutputPredictor
from llmgate.core.pool import EndpointPool
from llmgate.core.prefix import Holders, PrefixIndex, block_end
from llmgate.core.protocols import Candidates, Router
from llmgate.core.residency import Residency
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Usage, Verdict

NOBODY: Mapping[int, bool] = {}


@dataclass(slots=True, eq=False)
class Decision:
    """One choice, with what explains it. Holds no prompt."""

    request_id: str
    at: float
    model: str
    prompt_tokens: int
    endpoint: Endpoint
    cached_tokens: int  # of the chosen endpoint
    candidates: Candidates
    costs: Sequence[float]  # aligned with candidates.endpoints, in the policy's unit, lower is better
    tied: int  # how many candidates shared the lowest cost
    told: Collection[int] = ()  # slots of those whose own KV events say what they hold; of the others it was learnt
    explanation: Explanation | None = None

    def ranking(self) -> list[Endpoint]:
        """All candidates, the chosen one first, the others by cost."""
        order = sorted(
            range(len(self.costs)), key=lambda i: (self.candidates.endpoints[i] is not self.endpoint, self.costs[i])
        )
        return [self.candidates.endpoints[i] for i in order]


class ModelKnowledge:
    """What has been learnt about one model's prompts and answers."""

    __slots__ = ("output", "prompt")

    def __init__(self) -> None:
        self.prompt = PromptEstimator()
        self.output = OutputPredictor()


class Scheduler:
    def __init__(
        self,
        pool: EndpointPool,
        router: Router,
        *,
        seed: int = 0,
        prefix_capacity: int = 262_144,
        keep_decisions: int = 256,
        explain_every: float = math.inf,
    ) -> None:
        """A decision is explained if `explain_every` seconds have passed since the last that was: by what comes out of
        their predictions one sees how good they are."""
        self.pool = pool
        self.ledger = Ledger()
        self.decisions: deque[Decision] = deque(maxlen=keep_decisions)
        self._random = Random(seed)
        self.router = router
        self.block_index = BlockIndex()  # fed by probes
        self._bookings = Bookings()
        self._prefixes = PrefixIndex(prefix_capacity)
        self._residencies: dict[int, Residency] = {}  # by slot
        self._beginnings = KnownBeginnings()
        self._busy_until = -math.inf  # the latest of the endpoints'
        self.comparison: Comparison | None = None  # of those decisions that are explained
        self._explain_every = explain_every
        self._explain_at = math.inf if explain_every == math.inf else -math.inf
        self._knowledge: dict[str, ModelKnowledge] = {}

    @property
    def router(self) -> Router:
        """The policy. Another one may be put in its place at any time; it starts without history."""
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        router.random = self._random
        self._router = router
        self._hears_answers = type(router).answered is not Router.answered
        self._hears_good_ends = type(router).finished is not Router.finished
        self._hears_ends = type(router).ended is not Router.ended

    # What is known before a request is made: its prompt's classes and holders, its model's estimators

    def knowledge(self, model: str) -> ModelKnowledge:
        """Estimators of `model`, which must be a resolved name: clients cannot make this grow."""
        known = self._knowledge.get(model)
        if known is None:
            known = self._knowledge[model] = ModelKnowledge()
        return known

    def expect_output(
        self, model: str, kind: Kind, max_tokens: int | None, prompt_tokens: int = 0, tenant: Hashable = None
    ) -> int:
        """Output tokens on average; 0 for a kind that makes none. `tenant` is whatever tells who asks."""
        if not kind.generates:
            return 0
        return round(self.knowledge(model).output.expect(max_tokens, prompt_tokens, tenant))

    def block_tokens(self, model: str) -> int | None:
        """Tokens of the KV blocks of the endpoints of `model` that tell what they hold, the most common size if they
        differ; None when none of them does, and chain keys of token blocks are of no use."""
        live = self.block_index.live_slots
        if not live:
            return None
        sizes = Counter(live.get(endpoint.slot) for endpoint in self.pool if model in endpoint.models)
        del sizes[None]
        return sizes.most_common(1)[0][0] if sizes else None

    def chain_name(self, model: str) -> str:
        """What the first token block of a prompt for `model` is seeded with: the name of a LoRA adapter, else nothing,
        as an endpoint's own model needs none to be told from others there."""
        return model if model in self.block_index.adapters else ""

    def holders(self, keys: Sequence[int]) -> Holders:
        """Who has seen how much of the prompt with these chain keys."""
        return self._prefixes.holders(keys)

    def classify(self, prompt: bytes, keys: Sequence[int], holders: Holders) -> ByteClasses:
        """What `prompt` is made of, given its chain keys and their holders."""
        return self._beginnings.classify(prompt, keys, holders[-1][0]) if holders else byte_classes(prompt)

    # One request

    def admit(self, model: str, now: float) -> str:
        """The public model behind the name a client sent. Raises ModelNotFound or NoReadyEndpoint."""
        resolved = self.pool.resolve(model)
        if resolved is None:
            if self.pool.may_come(model):
                raise NoReadyEndpoint("No endpoint that may serve this model has come up yet; try again shortly.")
            raise ModelNotFound(model)
        if not self.pool.ready(resolved, now):
            raise NoReadyEndpoint(f"No endpoint of the model `{resolved}` is ready; try again shortly.")
        return resolved

    def schedule(self, request: InferenceRequest, now: float, tried: Collection[Endpoint] = ()) -> Decision:
        """Choose among the ready endpoints of the request's model that were not tried. Raises NoReadyEndpoint."""
        endpoints: Sequence[Endpoint] = self.pool.ready(request.model, now)
        if tried:
            endpoints = [endpoint for endpoint in endpoints if endpoint not in tried]
        if now < self._busy_until:
            endpoints = [endpoint for endpoint in endpoints if endpoint.busy_until <= now] or endpoints
        if not endpoints:
            raise NoReadyEndpoint(f"No other endpoint of the model `{request.model}` is ready; try again shortly.")
        cached = self._cached_tokens(request, endpoints)
        told = self.block_index.told(request.block_tokens) if request.block_tokens else NOBODY
        if told:
            cached = self._told_tokens(request, endpoints, told, cached)
        candidates = Candidates(endpoints, cached, now)
        costs = self._router.score(request, candidates)
        chosen, tied = pick(endpoints, costs, self._router.tie_margin, self._random)
        decision = Decision(
            request.id,
            now,
            request.model,
            request.prompt_tokens,
            endpoints[chosen],
            candidates.cached_tokens[chosen],
            candidates,
            costs,
            tied,
            told,
        )
        self.decisions.append(decision)
        if now >= self._explain_at:
            self._explain_at = now + self._explain_every
            explanation = self.explain(request, decision, tried)
            if (comparison := self.comparison) is not None and comparison.compare(request, candidates, chosen):
                explanation.audience = comparison
        elif request.slo is not None:
            predicted = self._router.predict(request, decision.endpoint, decision.cached_tokens, now)
            decision.explanation = Explanation(request.slo, predicted)
        return decision

    def explain(self, request: InferenceRequest, decision: Decision, tried: Collection[Endpoint] = ()) -> Explanation:
        """What spoke for and against each endpoint. To be asked before anything is booked: it goes by loads as they
        are. It is kept in the decision."""
        explanation = decision.explanation
        if explanation is None or not explanation.options:
            candidates = decision.candidates
            chosen = candidates.endpoints.index(decision.endpoint)
            members = [endpoint for endpoint in self.pool if request.model in endpoint.models]
            explanation = decision.explanation = explain(
                self._router, request, members, candidates, decision.costs, chosen, decision.told, tried
            )
        return explanation

    def book(self, request: InferenceRequest, decision: Decision, now: float) -> Charge:
        """Put the request on the chosen endpoint's account. Whoever calls this owes a `settle`."""
        endpoint = decision.endpoint
        trial = endpoint.health.begin_request()
        output = self.knowledge(request.model).output if request.kind.generates else None
        charge = self.ledger.book(
            request, endpoint, now, cached_tokens=decision.cached_tokens, trial=trial, output=output
        )
        charge.explanation = decision.explanation
        request.cached_tokens = decision.cached_tokens
        try:
            if request.prefix:
                self._prefixes.record(request.prefix, endpoint.slot)
                self._uses(endpoint, request, 0)
            if request.blocks:
                self._bookings.record(request.blocks, charge)
            self._router.booked(request, endpoint, now)
            if decision.explanation is not None and (audience := decision.explanation.audience) is not None:
                audience.booked(request, endpoint, now)
        except BaseException:  # a third party's router: nobody holds the charge yet
            self.settle(charge, TerminationCause.GATEWAY_ERROR, now)
            raise
        return charge

    def answered(self, charge: Charge, now: float) -> None:
        """A good answer has begun. A half-open endpoint has passed its trial; it need not wait for the answer's end."""
        if charge.trial:
            charge.endpoint.health.request_ended(Verdict.GOOD, now, trial=charge.trial)
            charge.trial = 0
        explanation, audience = charge.explanation, None
        if explanation is not None:
            audience = explanation.audience
            if charge.request.stream:
                explanation.observed_ttft = now - charge.booked_at
        if self._hears_answers or audience is not None:
            if not charge.endpoint.member:
                return
            self._router.answered(charge.request, charge.endpoint, now)
            if audience is not None:
                audience.answered(charge.request, charge.endpoint, now)

    def settle(
        self,
        charge: Charge,
        cause: TerminationCause,
        now: float,
        *,
        verdict: Verdict = Verdict.NEUTRAL,
        usage: Usage | None = None,
        reason: str = "",
        busy_for: float = 0.0,
    ) -> bool:
        """End an attempt, whatever became of it; learn from it. False, and no effect, if it was settled before.

        `busy_for`: seconds for which the endpoint, which refused the request because it is full, is to be left out as
        long as there are others. Nothing else would tell: what it refuses is not booked on it, so it looks idle.
        """
        if not self.ledger.settle(charge, cause):
            return False
        if busy_for:
            charge.endpoint.busy_until = max(charge.endpoint.busy_until, now + busy_for)
            self._busy_until = max(self._busy_until, now + busy_for)
        health = charge.endpoint.health
        entered = health.entered
        health.request_ended(verdict, now, trial=charge.trial, reason=reason)
        if verdict is Verdict.UNREACHABLE and health.entered != entered:
            self._forget_cache(charge.endpoint)
        good = verdict is Verdict.GOOD and cause is TerminationCause.COMPLETED
        if usage is not None and cause is TerminationCause.COMPLETED:
            self._learn(charge.request, usage)
        explanation = charge.explanation
        if explanation is not None and explanation.observed_ttft is not None:
            self._observe(charge, explanation, explanation.observed_ttft, usage if good else None, now)
        if charge.endpoint.member:
            if good and charge.request.prefix:
                self._uses(charge.endpoint, charge.request, 0 if usage is None else usage.completion_tokens)
            if good and self._hears_good_ends:
                self._router.finished(charge.request, charge.endpoint, usage, now - charge.booked_at, now)
            if self._hears_ends:
                self._router.ended(charge.request, charge.endpoint, now)
            if explanation is not None and (audience := explanation.audience) is not None:
                if good:
                    audience.finished(charge.request, charge.endpoint, usage, now - charge.booked_at, now)
                audience.ended(charge.request, charge.endpoint, now)
        return True

    def remove(self, name: str) -> Endpoint | None:
        """Take an endpoint out of the pool and out of everything learnt; its open charges settle on their own."""
        endpoint = self.pool.remove(name)
        if endpoint is not None:
            self._forget(endpoint.slot)
            self.block_index.forget(endpoint.slot)
            self._router.removed(endpoint)
            if self.comparison is not None:
                self.comparison.removed(endpoint)
        return endpoint

    def _forget_cache(self, endpoint: Endpoint) -> None:
        """It takes no connections, so its process has ended, and its cache with it. Events tell of that themselves."""
        if endpoint.member:  # else its slot may be another's by now
            self._forget(endpoint.slot)

    def _forget(self, slot: int) -> None:
        """What it was sent before counts no more."""
        self._prefixes.forget(slot)
        self._residencies.pop(slot, None)
        self._bookings.forget(slot)

    def _observe(self, charge: Charge, explanation: Explanation, ttft: float, usage: Usage | None, now: float) -> None:
        """Hold a prediction against what came of it. `usage`: of a whole answer."""
        if usage is not None and usage.completion_tokens > 1:
            explanation.observed_tpot = (now - charge.booked_at - ttft) / (usage.completion_tokens - 1)
        if explanation.predicted is not None and charge.endpoint.member:
            self._router.observed(charge.endpoint, explanation.predicted, ttft, explanation.observed_tpot)

    def _learn(self, request: InferenceRequest, usage: Usage) -> None:
        knowledge = self.knowledge(request.model)
        if request.byte_classes is not None and not usage.counted:
            knowledge.prompt.learn(request.byte_classes, usage.prompt_tokens)
        if request.kind.generates:
            knowledge.output.learn(usage.completion_tokens, request.prompt_tokens, request.tenant)

    def _told_tokens(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        told: Mapping[int, bool],
        learnt: Sequence[int],
    ) -> Sequence[int]:
        """The same, but by what endpoints tell themselves, for those of the slots `told` (BlockIndex.told)."""
        size = request.block_tokens
        most = max(request.prompt_tokens - 1, 0) // size  # the last token is always computed, and only whole blocks hit
        held = self.block_index.matched(request.blocks)
        booked = self._bookings.matched(request.blocks)
        tokens = list(learnt)
        for index, endpoint in enumerate(endpoints):
            slot = endpoint.slot
            whole = told.get(slot)
            if whole is None:
                continue
            blocks = held.get(slot, 0)
            if booked and (soon := booked.get(slot, 0)) > blocks:
                blocks = soon
            exact = (blocks if blocks < most else most) * size
            if whole or exact > learnt[index]:
                tokens[index] = exact
        return tokens

    def _cached_tokens(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[int]:
        """Prompt tokens that each endpoint is thought to hold in its cache: those that it has seen, and where the size
        of its cache is known, that it has not evicted since."""
        holders, request.holders = request.holders, None  # used once: it gets out of date
        if holders is None:
            holders = self._prefixes.holders(request.prefix)
        if not holders:
            return [0] * len(endpoints)
        per_byte = request.prompt_tokens / request.prompt_bytes
        everybody = len(self.pool)
        least = 0, 0  # what all of them have seen: blocks, and the tokens of these
        seen: dict[int, tuple[int, int]] = {}  # the same by slot, of those that have seen more
        deeper = 0
        for blocks, mask in reversed(holders):
            match = blocks, int(block_end(blocks) * per_byte)
            if mask.bit_count() == everybody:
                least = match
                break
            bits = bin(mask & ~deeper)[:1:-1]  # whose longest match this is; text, as wide integers are slow
            deeper = mask
            slot = bits.find("1")
            while slot >= 0:
                seen[slot] = match
                slot = bits.find("1", slot + 1)
        residencies = self._residencies
        if not residencies:
            if not seen:
                return [least[1]] * len(endpoints)
            return [seen.get(endpoint.slot, least)[1] for endpoint in endpoints]
        keys, held = request.prefix, []
        for endpoint in endpoints:
            blocks, tokens = seen.get(endpoint.slot, least)
            if blocks and (residency := residencies.get(endpoint.slot)) is not None:
                tokens = residency.held(keys, blocks, tokens)
            held.append(tokens)
        return held

    def _uses(self, endpoint: Endpoint, request: InferenceRequest, answer_tokens: int) -> None:
        """The endpoint has the request's prompt in its cache, and so much of an answer."""
        residency = self._residencies.get(endpoint.slot)
        capacity = None if endpoint.metrics is None else endpoint.metrics.kv_capacity_tokens
        if capacity and (residency is None or residency.capacity_tokens != capacity):
            residency = self._residencies[endpoint.slot] = Residency(capacity)
        if residency is not None:
            tokens = request.prompt_tokens + answer_tokens
            residency.use(request.prefix, tokens, request.prompt_tokens / request.prompt_bytes)
