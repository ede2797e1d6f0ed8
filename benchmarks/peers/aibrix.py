"""AIBrix's gateway plugin, vllm-project/aibrix @ e3e10f9e4aeb, 2026-08-22.

Sources: pkg/plugins/gateway/algorithms/{prefix_cache,least_request,util}.go, pkg/utils/prefixcacheindexer/hash.go,
pkg/utils/lrustore/lru_store.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from benchmarks.peers.blocks import Names, block_bytes
from benchmarks.peers.choice import any_of_the_best, in_order, only
from llmgate.core.prefix import block_end
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest

BLOCK_BYTES = 4  # AIBRIX_PREFIX_CACHE_BLOCK_SIZE in "tokens" of the default tokenizer, which are characters


@dataclass
class PrefixCache(Router):
    """`routing-strategy: prefix-cache`.

    Rule: if the most requests in flight on a pod are over `imbalance` above the least, only pods with the least are
    matched, else all. Of those that hold the beginning of the prompt, by falling whole percent of it and rising
    requests, the first with no more requests than the mean plus `deviations` × the standard deviation (of a sample) of
    all pods. If there is none, a pod with the fewest requests. Ties are drawn.

    One index for all pods: 200,000 blocks of 4 characters (800 kB of prompts in all), the least recently sent dropped
    one by one, from a prompt's beginning on; what was not sent again for 20 minutes is dropped too. Looking up does not
    refresh.

    Simplified: a key's 64 or 256 blocks are dropped together; the index is cleaned of old blocks when a prompt is
    looked up, not each second.
    """

    imbalance: int = 8
    deviations: float = 1.0
    blocks: int = 200_000
    ttl: float = 1200.0
    _names: Names = field(default_factory=Names, init=False, repr=False, compare=False)
    _index: dict[int, tuple[int, float, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Chain key → (mask of pods, when it was last sent, bytes), the longest ago first."""
    _size: int = field(default=0, init=False, repr=False, compare=False)

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        self._expire(candidates.now)
        endpoints = in_order(candidates.endpoints)
        counts = [endpoint.load.requests for endpoint in endpoints]
        allowed = endpoints
        if max(counts) - min(counts) > self.imbalance:
            allowed = [endpoint for endpoint in endpoints if endpoint.load.requests == min(counts)]
        limit = fmean(counts) + self.deviations * (stdev(counts) if len(counts) > 1 else 0.0)
        percents = self._percents(request, allowed)
        matched = [each for each in allowed if each.name in percents and each.load.requests <= limit]
        if matched:
            best = max(percents[each.name] for each in matched)
            matched = [each for each in matched if percents[each.name] == best]
        chosen = any_of_the_best(matched or endpoints, lambda each: each.load.requests, self.random)
        return only(chosen, candidates.endpoints)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        bit = 1 << self._names.number(endpoint.name)
        for position, key in enumerate(request.prefix):
            mask, _, size = self._index.pop(key, (0, 0.0, 0))
            self._size += block_bytes(position) - size
            self._index[key] = mask | bit, now, block_bytes(position)
        while self._size > self.blocks * BLOCK_BYTES:
            self._drop_oldest()

    def _percents(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Mapping[str, int]:
        """Whole percent of the prompt's blocks that each holds from the start; who holds nothing is missing."""
        total = max(request.prompt_bytes // BLOCK_BYTES, 1)
        ready = self._names.mask(endpoint.name for endpoint in endpoints)
        depths: dict[str, int] = {}
        for depth, key in enumerate((*request.prefix, None)):
            entry = self._index.get(key) if key is not None else None
            left = ready & entry[0] if entry is not None else 0
            if depth:
                for name in self._names.of(ready & ~left):
                    depths[name] = depth
            ready = left
            if not ready:
                break
        return {name: block_end(depth) // BLOCK_BYTES * 100 // total for name, depth in depths.items()}

    def _expire(self, now: float) -> None:
        while self._index and now - next(iter(self._index.values()))[1] > self.ttl:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, _, size = self._index.pop(next(iter(self._index)))
        self._size -= size
