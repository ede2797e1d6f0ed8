"""vllm-router, vllm-project/router @ 16917f49522f (src/policies/cache_aware.rs). A fork of sgl-router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.choice import in_order, only
from benchmarks.peers.prompt_tree import PromptTree
from benchmarks.peers.smg import imbalanced
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest


@dataclass
class CacheAware(Router):
    """`--policy cache_aware`, for prompts without a session header.

    Rule: as smg's (see there), with two differences. Of engines with equally few requests in flight it is always the
    first. An engine that leaves is taken out of the tree, and a prompt of an engine that cannot be used takes it out
    too and goes to the first that can.

    Simplified: as smg's. A session id in a header is looked up by itself before the tree; that is left out, so this is
    what clients get that send none.
    """

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    eviction_interval_secs: float = 120.0
    max_tree_size: int = 67_108_864
    _tree: PromptTree = field(default_factory=PromptTree, init=False, repr=False, compare=False)
    _unnoted: str = field(default="", init=False, repr=False, compare=False)
    _evicted_at: float = field(default=0.0, init=False, repr=False, compare=False)

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        if candidates.now - self._evicted_at >= self.eviction_interval_secs:
            self._evicted_at = candidates.now
            self._tree.evict(self.max_tree_size)
        return only(self._choose(request, in_order(candidates.endpoints)), candidates.endpoints)

    def _choose(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Endpoint:
        loads = [endpoint.load.requests for endpoint in endpoints]
        fewest = endpoints[loads.index(min(loads))]
        self._unnoted = ""
        if imbalanced(loads, self.balance_abs_threshold, self.balance_rel_threshold):
            return fewest
        matched, owner = self._tree.match(request.prefix)
        if not request.prompt_bytes or matched / request.prompt_bytes <= self.cache_threshold:
            return fewest
        for endpoint in endpoints:
            if endpoint.name == owner:
                return endpoint
        if owner is not None:
            self._tree.remove(owner)
        self._unnoted = request.id
        return endpoints[0]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        if request.id != self._unnoted:
            self._tree.insert(request.prefix, endpoint.name)

    def removed(self, endpoint: Endpoint) -> None:
        self._tree.remove(endpoint.name)
