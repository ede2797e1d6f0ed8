"""The router of vLLM's production stack, vllm-project/production-stack @ a6c01db05f65, 2026-08-05.

Sources: src/vllm_router/routers/routing_logic.py, src/vllm_router/prefix/hashtrie.py.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from benchmarks.peers.blocks import Names
from benchmarks.peers.choice import in_order, only
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest


@dataclass
class PrefixAware(Router):
    """`--routing-logic prefixaware`: one of those that were sent the most of this prompt, drawn; of all if none was.

    The prompt is cut into chunks of 128 characters and looked up in a trie that forgets nothing; a key stands for two
    chunks, or eight. `--prefix-min-match-length` is 0, so load is never looked at. Engines that have left stay in the
    trie and are passed over.
    """

    _names: Names = field(default_factory=Names, init=False, repr=False, compare=False)
    _held: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints = in_order(candidates.endpoints)
        holders = self._names.mask(endpoint.name for endpoint in endpoints)
        for key in request.prefix:
            left = holders & self._held.get(key, 0)
            if not left:
                break
            holders = left
        names = set(self._names.of(holders))
        chosen = self.random.choice([endpoint for endpoint in endpoints if endpoint.name in names])
        return only(chosen, candidates.endpoints)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        bit = 1 << self._names.number(endpoint.name)
        for key in request.prefix:
            self._held[key] = self._held.get(key, 0) | bit


@dataclass
class Session(Router):
    """`--routing-logic session`: by a hash ring for requests with a session, else the engine with the fewest arrivals
    in the last minute, the first of equals; one that never had a request comes before all others.

    The ring is uhashring's in kind (a point for each of `points` virtual nodes of an engine), with another hash.
    """

    points: int = 160
    window: float = 60.0  # --request-stats-window
    _ring: list[tuple[int, str]] = field(default_factory=list, init=False, repr=False, compare=False)
    _members: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)
    _arrivals: dict[str, deque[float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs_session = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints = in_order(candidates.endpoints)
        if request.session is None:
            chosen = min(endpoints, key=lambda endpoint: self._rate(endpoint.name, candidates.now))
        else:
            home = self._home(request.session, frozenset(endpoint.name for endpoint in endpoints))
            chosen = next(endpoint for endpoint in endpoints if endpoint.name == home)
        return only(chosen, candidates.endpoints)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._arrivals.setdefault(endpoint.name, deque()).append(now)

    def removed(self, endpoint: Endpoint) -> None:
        self._arrivals.pop(endpoint.name, None)

    def _rate(self, name: str, now: float) -> int:
        arrivals = self._arrivals.get(name)
        if arrivals is None:
            return -1
        while arrivals and arrivals[0] < now - self.window:
            arrivals.popleft()
        return len(arrivals)

    def _home(self, session: str, members: frozenset[str]) -> str:
        if members != self._members:
            self._members = members
            self._ring = sorted((_hash(f"{name}-{n}"), name) for name in members for n in range(self.points))
        place = bisect(self._ring, (_hash(session), ""))
        return self._ring[place % len(self._ring)][1]


def _hash(text: str) -> int:
    return xxh3_64_intdigest(text.encode())
