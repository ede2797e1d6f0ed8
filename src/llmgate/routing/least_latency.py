from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.routing.latencies import Latencies
from llmgate.routing.limits import check


@dataclass
class LeastLatency(Router):
    """The shortest response time to be expected: the endpoint's decayed mean per output token, times the requests in
    flight there, counting this one, for its weight.

    The factor is what keeps it stable: a mean is known only after answers have ended, and until then the fastest
    endpoint would be sent everything. An endpoint that has not answered yet counts as average.

    Exploring: an endpoint that has nothing in flight and has not answered for `stale_after` seconds may have become
    fast since. It is given the next request, but only one at a time, and no more than a share of `explore` of all
    requests is spent on that.
    """

    time_constant: float = 30.0
    stale_after: float = 30.0
    explore: float = 0.05
    tie_margin: float = 0.1  # means of a few answers are no better than this
    _latencies: Latencies = field(init=False, repr=False, compare=False)
    _credit: float = field(init=False, repr=False)  # explorations that may be made now, at most 1

    def __post_init__(self) -> None:
        check("time_constant", self.time_constant, above=True, most=86_400)
        check("stale_after", self.stale_after, above=True, most=86_400)
        check("explore", self.explore, most=1)
        check("tie_margin", self.tie_margin, most=1)
        self._latencies = Latencies(self.time_constant)
        self._credit = 1.0 if self.explore else 0.0

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, since = candidates.endpoints, candidates.now - self.stale_after
        costs = [
            mean * (endpoint.load.requests + 1) / endpoint.weight
            for endpoint, mean in zip(endpoints, self._latencies.means(endpoints), strict=True)
        ]
        if self._credit >= 1.0:
            answered_at = self._latencies.answered_at
            for index, endpoint in enumerate(endpoints):
                if not endpoint.load.requests and answered_at(endpoint) < since:
                    costs[index] = 0.0
        return costs

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        alone = endpoint.load.requests <= 1  # but for the one that was just booked
        if self._credit >= 1.0 and alone and self._latencies.answered_at(endpoint) < now - self.stale_after:
            self._credit -= 1.0
        self._credit = min(self._credit + self.explore, 1.0)

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self._latencies.note(request, endpoint, usage, seconds, now)

    def removed(self, endpoint: Endpoint) -> None:
        self._latencies.forget(endpoint)
