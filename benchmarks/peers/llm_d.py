"""llm-d's router (the endpoint picker), llm-d/llm-d-router @ ebab687927f5, 2026-08-22.

Sources: pkg/epp/config/loader/defaults.go (weights), pkg/epp/framework/plugins/scheduling/{scorer,picker},
…/requestcontrol/dataproducer/approximateprefix (the index).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from benchmarks.peers.blocks import Recent, block_bytes, within
from benchmarks.peers.choice import any_of_the_best, only
from llmgate.core.prefix import FINE_BLOCK
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest

BLOCK_TOKENS = 64  # the engine's 16 are raised to this (minBlockSizeTokens)
ENGINE_BLOCK_TOKENS = 16  # vLLM's, by which it counts the cache that the index is made as large as


@dataclass
class DefaultScorers(Router):
    """The default configuration: the highest sum of three scores, ties drawn.

        2 × (most waiting - waiting) / (most - least waiting)      1 for all if they are equal
        2 × (1 - KV usage)
        3 × blocks of the prompt in the index / blocks of the prompt

    Waiting and KV usage are the engine's own, scraped every 50 ms; what was never read counts as 0, as in Go. The index
    is approximate: 64-token blocks of the prompts that were sent to an engine, the least recently used dropped beyond
    as many as the engine says that it has 16-token blocks of KV cache (`autoTune`), or 31,250 if it does not say.
    Blocks are put in from the first to the last, so a prompt's beginning is dropped first. Looked up are at most
    131,072 tokens. The look-up ends at the first block that no engine has; before it an engine's blocks count even
    where one before them is missing.

    Simplified: a block is 256 bytes, a key stands for one or four. Flow control is off by default and left out. The
    readings are as old as the simulator's scrapes are: state their period with the row.
    """

    queue: float = 2.0
    kv: float = 2.0
    prefix: float = 3.0
    blocks: int = 31_250
    max_tokens: int = 131_072
    _held: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _recent: dict[int, tuple[Recent, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints = candidates.endpoints
        waiting = {each.name: _reading(each, "waiting") for each in endpoints}
        most, least = max(waiting.values()), min(waiting.values())
        matched = self._matched(request, endpoints)
        total = min(ceil(request.prompt_tokens / BLOCK_TOKENS), self.max_tokens // BLOCK_TOKENS)

        def minus_sum(endpoint: Endpoint) -> float:
            queue = (most - waiting[endpoint.name]) / (most - least) if most > least else 1.0
            kv = 1.0 - _reading(endpoint, "kv_usage")
            prefix = min(matched.get(endpoint.slot, 0) / total, 1.0) if total else 0.0
            return -(self.queue * queue + self.kv * kv + self.prefix * prefix)

        return only(any_of_the_best(endpoints, minus_sum, self.random), endpoints)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        bit = 1 << endpoint.slot
        if endpoint.slot not in self._recent:
            self._recent[endpoint.slot] = Recent(), self._capacity(endpoint) * FINE_BLOCK
        recent, capacity = self._recent[endpoint.slot]
        for position, key in enumerate(self._keys(request)):
            recent.use(key, block_bytes(position))
            self._held[key] = self._held.get(key, 0) | bit
        for key in recent.drop_to(capacity):
            self._drop(key, bit)

    def removed(self, endpoint: Endpoint) -> None:
        recent, _ = self._recent.pop(endpoint.slot, (Recent(), 0))
        for key in recent:
            self._drop(key, 1 << endpoint.slot)

    def _keys(self, request: InferenceRequest) -> Sequence[int]:
        return within(request.prefix, self.max_tokens // BLOCK_TOKENS * FINE_BLOCK)

    def _capacity(self, endpoint: Endpoint) -> int:
        """Blocks; settled when the first prompt is sent there."""
        tokens = endpoint.metrics.kv_capacity_tokens if endpoint.metrics is not None else None
        return tokens // ENGINE_BLOCK_TOKENS if tokens else self.blocks

    def _matched(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Mapping[int, int]:
        """Blocks by slot."""
        matched = dict.fromkeys((endpoint.slot for endpoint in endpoints), 0)
        for position, key in enumerate(self._keys(request)):
            holders = self._held.get(key, 0)
            if not holders:
                break
            for slot in matched:
                if holders >> slot & 1:
                    matched[slot] += block_bytes(position) // FINE_BLOCK
        return matched

    def _drop(self, key: int, bit: int) -> None:
        left = self._held.get(key, 0) & ~bit
        if left:
            self._held[key] = left
        else:
            self._held.pop(key, None)


def _reading(endpoint: Endpoint, name: str) -> float:
    return (getattr(endpoint.metrics, name) if endpoint.metrics is not None else None) or 0.0
