"""NVIDIA Dynamo's KV router, ai-dynamo/dynamo, lib/kv-router @ 07a6c9ce3bb0 (1.4).

Sources: src/scheduling/selector/{default,mod}.rs (cost), src/scheduling/config.rs (defaults), src/sequences (load).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.blocks import block_bytes
from benchmarks.peers.choice import any_of_the_best, only
from llmgate.core.prefix import block_end
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.sim.world import SeeingRouter

BLOCK_TOKENS = 16  # of the engine
STALE_SECONDS = 300.0  # after which a request that was not heard of again counts no more


@dataclass
class KvCost(Router):
    """`--router-mode kv`: the least cost in blocks of KV cache, ties drawn (temperature 0).

        max(tokens being prefilled + prompt - cached tokens, 0) / 16
        + blocks that the prompts in flight, with this one, take: what they share counts once

    Defaults: overlap_score_credit 1, its decay 0, prefill_load_scale 1, decode_active_request_weight 0, no host, disk
    or shared cache, output blocks not tracked. A prompt's blocks count from its arrival to its end, or 5 minutes.

    Cached tokens: of Dynamo's two modes this is the approximate one (`--no-kv-events`): what was sent to an engine in
    the last `ttl` seconds. The default is KvEvents.

    Simplified: prompts being prefilled are those that llmgate has booked and that have not begun to answer. A cost goes
    by tokens over 16; keys are turned into tokens by the prompt's own bytes for each. The router's queue, for when each
    engine has over 16 batches of prefill ahead, is left out.
    """

    ttl: float = 120.0
    _sent: dict[int, dict[int, float]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By slot: key → when it was last sent, the longest ago first."""
    _active: dict[int, dict[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By slot: key → requests in flight that have the block."""
    _bytes: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By slot: bytes of the blocks in `_active` and of what their prompts have beyond whole blocks."""
    _open: dict[str, tuple[int, Sequence[int], int, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Requests in flight: slot, keys, bytes beyond them, since when."""

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        now = candidates.now
        self._sweep(now)
        per_byte = request.prompt_tokens / request.prompt_bytes if request.prompt_bytes else 0.0
        costs = {}
        for endpoint, cached in zip(candidates.endpoints, self.cached_tokens(request, candidates), strict=True):
            prefill = max(endpoint.load.prefill_tokens + request.prompt_tokens - cached, 0.0)
            active = self._active.get(endpoint.slot, {})
            more = request.prompt_bytes
            for position, key in enumerate(request.prefix):
                if key not in active:
                    break
                more -= block_bytes(position)
            blocks = (self._bytes.get(endpoint.slot, 0) + more) * (per_byte or 0.25)
            costs[endpoint.slot] = (prefill + blocks) / BLOCK_TOKENS
        chosen = any_of_the_best(candidates.endpoints, lambda endpoint: costs[endpoint.slot], self.random)
        return only(chosen, candidates.endpoints)

    def cached_tokens(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        """Tokens of the prompt that each candidate is thought to hold."""
        per_byte = request.prompt_tokens / request.prompt_bytes if request.prompt_bytes else 0.0
        return [
            block_end(self._depth(request.prefix, endpoint.slot, candidates.now)) * per_byte
            for endpoint in candidates.endpoints
        ]

    def _depth(self, keys: Sequence[int], slot: int, now: float) -> int:
        sent = self._sent.get(slot, {})
        for depth, key in enumerate(keys):
            if now - sent.get(key, float("-inf")) > self.ttl:
                return depth
        return len(keys)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        slot, keys = endpoint.slot, request.prefix
        self._close(request.id)  # an earlier attempt
        sent = self._sent.setdefault(slot, {})
        for key in keys:
            sent.pop(key, None)
            sent[key] = now
        while sent and now - next(iter(sent.values())) > self.ttl:
            del sent[next(iter(sent))]
        active = self._active.setdefault(slot, {})
        beyond = max(request.prompt_bytes - block_end(len(keys)), 0)
        added = beyond
        for position, key in enumerate(keys):
            users = active.get(key, 0)
            active[key] = users + 1
            if not users:
                added += block_bytes(position)
        self._bytes[slot] = self._bytes.get(slot, 0) + added
        self._open[request.id] = slot, keys, beyond, now

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self._close(request.id)

    def removed(self, endpoint: Endpoint) -> None:
        for request_id in [key for key, (slot, *_) in self._open.items() if slot == endpoint.slot]:
            del self._open[request_id]
        for by_slot in (self._sent, self._active, self._bytes):
            by_slot.pop(endpoint.slot, None)

    def _sweep(self, now: float) -> None:
        while self._open:
            request_id, (*_, since) = next(iter(self._open.items()))
            if now - since <= STALE_SECONDS:
                return
            self._close(request_id)

    def _close(self, request_id: str) -> None:
        if request_id not in self._open:
            return
        slot, keys, beyond, _ = self._open.pop(request_id)
        active = self._active[slot]
        freed = beyond
        for position, key in enumerate(keys):
            active[key] -= 1
            if not active[key]:
                del active[key]
                freed += block_bytes(position)
        self._bytes[slot] -= freed


@dataclass
class KvEvents(KvCost, SeeingRouter):
    """The same with KV events, which are on by default (`use_kv_events`): what each engine holds is known.

    Taken from the simulated engines' caches at the moment of the decision, in every row; in truth an event takes a
    millisecond or two. What is only about to be computed there does not count, as `router_predicted_ttl_secs` is off by
    default.
    """

    def cached_tokens(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        world = self.world
        real = world.engine_request(request)
        return [float(world.engine(endpoint).cached_tokens(real)) for endpoint in candidates.endpoints]
