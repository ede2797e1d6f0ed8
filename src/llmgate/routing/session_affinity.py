from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest
from llmgate.routing.limits import check, check_whole, kv_full
from llmgate.routing.pins import Pins

HOME = -1.0
"""The cost of the endpoint that a session is pinned to: below any load."""


@dataclass
class SessionAffinity(Router):
    """Each session's requests to the endpoint that its first one was sent to; others where fewest tokens are
    outstanding for the weight, counting the request's own.

    The pinned endpoint is passed over, for that request, while it cannot be used or is overloaded: its outstanding
    tokens for its weight are more than `max_lead` above those of the least loaded candidate, or its fresh KV-cache
    usage is above `kv_limit` (a share, 0..1). The pin stays; it runs out `ttl` seconds after its last use.
    """

    entries: int = 100_000
    ttl: float = 300.0
    max_lead: float = 16_384.0
    kv_limit: float = 0.95
    _pins: Pins = field(init=False, repr=False, compare=False)

    needs_session = True

    def __post_init__(self) -> None:
        check_whole("entries", self.entries, least=1, most=10_000_000)
        check("ttl", self.ttl, above=True, most=31_536_000)
        check("max_lead", self.max_lead, most=1e9)
        check("kv_limit", self.kv_limit, above=True, most=1)
        self._pins = Pins(self.entries, self.ttl)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, own, now = candidates.endpoints, request.tokens, candidates.now
        costs = [(endpoint.load.tokens + own) / endpoint.weight for endpoint in endpoints]
        home = self._pins.home(request, now)
        if home is not None and home in endpoints and not self._overloaded(home, endpoints, now):
            costs[endpoints.index(home)] = HOME
        return costs

    def _overloaded(self, home: Endpoint, endpoints: Sequence[Endpoint], now: float) -> bool:
        load = home.load.tokens / home.weight
        if load > self.max_lead:
            least = min(endpoint.load.tokens / endpoint.weight for endpoint in endpoints)
            if load > least + self.max_lead:
                return True
        limit = self.kv_limit
        return kv_full(home, limit, now) and not all(kv_full(endpoint, limit, now) for endpoint in endpoints)

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._pins.use(request, endpoint, now)

    def removed(self, endpoint: Endpoint) -> None:
        self._pins.forget(endpoint)
