"""smg (Shepherd Model Gateway; before that sgl-router), lightseekorg/smg @ 73da68ca9472, 2026-08-07.

Sources: model_gateway/src/policies/{cache_aware,power_of_two}.rs, crates/kv_index/src/string_tree.rs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.choice import Polled, in_order, only
from benchmarks.peers.prompt_tree import PromptTree
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest


@dataclass
class CacheAware(Router):
    """`--policy cache_aware` over HTTP, as the command line sets it up.

    Rule: with the least and the most requests in flight on an engine, if most - least > `balance_abs_threshold` and
    most > `balance_rel_threshold` × least, the engine with the fewest. Else, if more than `cache_threshold` of the
    prompt's characters are in the tree, the engine that the tree names; if that one cannot be used, the first that can,
    and nothing is noted. Else the engine with the fewest requests. Of engines with equally few the one that has been
    sent fewer requests ever, then the first. Every other choice is noted in the tree, an imbalanced one too.

    Every `eviction_interval_secs` the tree is cut back to `max_tree_size` characters for each engine. An engine that
    leaves stays in the tree (`remove_worker` does nothing).

    Simplified: one character is one byte. The KV-usage triggers are off by default (1.0) and left out. Letters after a
    fork are drawn (see PromptTree).
    """

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    eviction_interval_secs: float = 120.0
    max_tree_size: int = 67_108_864
    _tree: PromptTree = field(default_factory=PromptTree, init=False, repr=False, compare=False)
    _sent: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)
    _unnoted: str = field(default="", init=False, repr=False, compare=False)  # id of a request sent to the first
    _evicted_at: float = field(default=0.0, init=False, repr=False, compare=False)

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        if candidates.now - self._evicted_at >= self.eviction_interval_secs:
            self._evicted_at = candidates.now
            self._tree.evict(self.max_tree_size)
        return only(self._choose(request, in_order(candidates.endpoints)), candidates.endpoints)

    def _choose(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Endpoint:
        loads = [endpoint.load.requests for endpoint in endpoints]
        fewest = min(endpoints, key=lambda endpoint: (endpoint.load.requests, self._sent[endpoint.name]))
        self._unnoted = ""
        if imbalanced(loads, self.balance_abs_threshold, self.balance_rel_threshold):
            return fewest
        matched, owner = self._tree.match(request.prefix)
        if not request.prompt_bytes or matched / request.prompt_bytes <= self.cache_threshold:
            return fewest
        for endpoint in endpoints:
            if endpoint.name == owner:
                return endpoint
        self._unnoted = request.id
        return endpoints[0]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        if request.id != self._unnoted:
            self._tree.insert(request.prefix, endpoint.name)
            self._sent[endpoint.name] += 1


def imbalanced(loads: Sequence[int], absolute: int, relative: float) -> bool:
    """Whether the requests in flight differ so much that the cache is not looked at."""
    least, most = min(loads), max(loads)
    return most - least > absolute and most > relative * least


@dataclass
class PowerOfTwo(Router):
    """`--policy power_of_two`: of two engines drawn alike, the one with the lower KV usage if both have reported it,
    else the one with fewer requests in flight; the first drawn if they are equal.

    KV usage is `vllm:kv_cache_usage_perc`, asked for every `poll` seconds (load_monitor_interval_secs, 10) and used
    however old it is: between two polls nothing that is sent counts (issue smg#1683).
    """

    poll: float = 10.0
    _polled: Polled = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._polled = Polled(self.poll)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        readings = self._polled.at(candidates)
        endpoints = in_order(candidates.endpoints)
        if len(endpoints) == 1:
            return [0.0]
        first, second = self.random.sample(endpoints, 2)
        usages = [
            reading.kv_usage
            for endpoint in (first, second)
            if (reading := readings.get(endpoint.name)) is not None and reading.kv_usage is not None
        ]
        if len(usages) == 2:
            chosen = first if usages[0] <= usages[1] else second
        else:
            chosen = first if first.load.requests <= second.load.requests else second
        return only(chosen, candidates.endpoints)

    def removed(self, endpoint: Endpoint) -> None:
        self._polled.forget(endpoint.name)
