"""A policy that sees everything: a bound for those that must guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from llmgate.core.protocols import Candidates
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import EngineRequest
from llmgate.routing.limits import check
from llmgate.sim.world import SeeingRouter


class _Work(NamedTuple):
    """What one open request has still to do."""

    prefill: int  # prompt tokens to compute
    seconds: float  # that these take
    decode: int  # tokens to produce
    context: int  # tokens that each of these reads
    waits: bool  # it has no place in the batch yet


@dataclass
class Oracle(SeeingRouter):
    """The least of: when this request's answer would begin and end, and by how much it would delay all others.

    Everything is known: true lengths, what each cache holds (and will hold, when what waits there has run), the exact
    work left of every open request. Costs, in seconds, follow from EngineProfile's formula:

    - first token: all prefills ahead, its own uncached tokens, and the decode work of the steps that these take; if the
      KV cache or the batch is full, the wait until enough others have ended;
    - the rest: one step for each token, each other request's share for as many steps as it lasts; where fewer are there
      than there were at a time lately, as many as lately: they come again, and that lowers E2E by 5 % on Mooncake's
      conversations;
    - `prefill_harm` × this prefill, for each open request, which stands still for it, and `decode_harm` × one more
      sequence in each step that is shared with one;
    - `occupancy` × the seconds of engine that it takes: whoever comes next waits behind that.

    Weights mean what they mean to expected-latency (routing/expected_latency.py), and are the same but for
    `ttft_weight`: with 4, mean TTFT is below that policy's on all scenes that were tried (docs/simulator.md). A whole
    harm counts too much: it delays each of the others only as long as that has not ended, and they overtake.

    It is greedy: it does not know what arrives next, and takes back nothing. So it is a bound for policies that decide
    at arrival with less knowledge, and no optimum: a policy that hits upon a better plan may beat it.
    """

    ttft_weight: float = 4.0
    e2e_weight: float = 1.0
    prefill_harm: float = 0.3
    decode_harm: float = 0.7
    occupancy: float = 1.0

    _last: dict[Endpoint, int] = field(init=False, repr=False, compare=False)
    """Of the last decision: prompt tokens that each engine would have to compute."""

    _planned: dict[EngineRequest, int] = field(init=False, repr=False, compare=False)
    """The same of requests that went somewhere. What waits is not looked up again: until it runs, its prefix stays
    about as it was, and in overload there are hundreds of them."""

    def __post_init__(self) -> None:
        self._last, self._planned = {}, {}
        for name in ("ttft_weight", "e2e_weight", "prefill_harm", "decode_harm", "occupancy"):
            check(name, getattr(self, name), most=1e6)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        real = self.world.engine_request(request)
        self._last.clear()
        return [self._cost(real, endpoint) for endpoint in candidates.endpoints]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._planned[self.world.engine_request(request)] = self._last[endpoint]

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self._planned.pop(self.world.engine_request(request), None)

    def _cost(self, own: EngineRequest, endpoint: Endpoint) -> float:
        engine = self.world.engine(endpoint)
        profile = engine.profile
        others = self.world.open_requests(endpoint)
        work = [self._work(other, endpoint) for other in others]
        cached = max(engine.cached_tokens(own), _to_be_cached(own, others, work))
        prefill = self._last[endpoint] = own.prompt_tokens - min(cached, own.prompt_tokens - 1)
        own_seconds = _prefill_seconds(profile, prefill, own.prompt_tokens)
        # steps that the prefills take, and what the decoding of the others adds to them
        ahead_tokens = prefill + sum(each.prefill for each in work)
        ahead = own_seconds + sum(each.seconds for each in work)
        steps = -(-ahead_tokens // profile.max_batch_tokens)
        decoding = sum(
            profile.sequence_s + (profile.kv_token_s + profile.prefill_kv_token_s) * each.context
            for each in work
            if not each.prefill and each.decode
        )
        first = (
            ahead
            + steps * (profile.step_s + profile.prefill_step_s + decoding)
            + self._wait_for_room(own, endpoint, work)
        )
        per_step = profile.sequence_s + profile.kv_token_s * (own.prompt_tokens + own.output_tokens / 2)
        rest, beside = (own.output_tokens - 1) * (profile.step_s + per_step), 0
        for each in work:
            shared = min(own.output_tokens, each.decode)
            rest += shared * (profile.sequence_s + profile.kv_token_s * each.context)
            beside += shared
        load = endpoint.load
        lately = load.recent_tokens / load.RECENT_SECONDS * profile.step_s  # each asks for one token a step
        rest += own.output_tokens * max(lately - len(work), 0.0) * profile.sequence_s
        return (
            self.ttft_weight * first
            + self.e2e_weight * (first + rest)
            + self.prefill_harm * len(work) * own_seconds
            + self.decode_harm * beside * per_step
            + self.occupancy * (own_seconds + own.output_tokens * per_step)
        )

    def _work(self, request: EngineRequest, endpoint: Endpoint) -> _Work:
        engine = self.world.engine(endpoint)
        produced, done = engine.generated(request), engine.prefilled(request)
        prefill, waits = max(request.prompt_tokens - done, 0), False
        if not produced and not done:
            waits = True
            prefill = self._planned[request]
        elif produced:
            prefill = 0
        left = request.output_tokens - produced
        seconds = _prefill_seconds(engine.profile, prefill, request.prompt_tokens) if prefill else 0.0
        return _Work(prefill, seconds, left, request.prompt_tokens + produced + left // 2, waits)

    def _wait_for_room(self, own: EngineRequest, endpoint: Endpoint, work: Sequence[_Work]) -> float:
        """Seconds until the batch and the KV cache have room for what waits there and for this request."""
        engine = self.world.engine(endpoint)
        profile = engine.profile
        running = [each for each in work if not each.waits]
        waiting = [each for each in work if each.waits]
        free = profile.kv_tokens * (1.0 - engine.gauges().kv_usage)
        lacking = own.prompt_tokens + sum(each.prefill for each in waiting) - free
        places = profile.max_running - len(work)
        if lacking <= 0 and places > 0:
            return 0.0
        step = profile.step_s + sum(profile.sequence_s + profile.kv_token_s * each.context for each in running)
        decode = 0
        for each in sorted(running, key=lambda each: each.decode):
            decode, lacking, places = each.decode, lacking - each.context, places + 1
            if lacking <= 0 and places > 0:
                break
        return decode * step


def _prefill_seconds(profile: EngineProfile, tokens: int, prompt_tokens: int) -> float:
    """For the last `tokens` of a prompt, apart from what each step takes anyway."""
    pairs = tokens * (prompt_tokens - tokens) + tokens * (tokens + 1) / 2
    return tokens * profile.prefill_token_s + pairs * profile.prefill_pair_s


def _to_be_cached(own: EngineRequest, others: Iterable[EngineRequest], work: Sequence[_Work]) -> int:
    """Tokens of the prompt that an open request is about to compute."""
    most = 0
    for other, each in zip(others, work, strict=True):
        if each.prefill and own.blocks and other.blocks and own.block_tokens == other.block_tokens:
            most = max(most, _common(own.blocks, other.blocks))
    return most * own.block_tokens


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Leading blocks that are equal. Ids are chained, so that they are so up to a point and never after."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
