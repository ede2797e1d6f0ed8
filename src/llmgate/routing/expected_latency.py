from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest
from llmgate.routing.limits import LAST_RESORT, check, saturated

LATELY_SECONDS = 10.0
"""In which the tokens booked lately are taken to have come. They fade more slowly than that (Load.RECENT_SECONDS): so a
rush counts at once, and a steady stream for more than it is, which does no harm where endpoints are compared."""


@dataclass
class ExpectedLatency(Router):
    """The least time that the answer is expected to take, in seconds:

        (prompt tokens ahead + uncached tokens of this prompt) / prefill rate
        + expected output tokens × time of a step of the batch that it would join

    at rates for an endpoint of weight 1; one of weight 2 is taken to be twice as fast in all of it. Prompt tokens ahead
    are those that this gateway has sent and that are not prefilled, or, if that is more, the requests that the engine
    says are waiting, at `waiting_tokens` each. The batch is this request and the largest of: requests in flight,
    requests that the engine says are running, and the mean concurrency that the tokens booked lately come to; the last
    lets a prefix that everybody shares spread before there is a queue.

    An endpoint whose KV cache is, or with this request would be, fuller than `capacity_share` (0..1) comes last.
    """

    prefill_tokens_per_second: float = 8000.0
    decode_step_seconds: float = 0.006
    decode_step_per_request: float = 0.00035
    waiting_tokens: float = 1024.0
    capacity_share: float = 0.85
    tie_margin: float = 0.0

    needs_prefix = True

    def __post_init__(self) -> None:
        check("prefill_tokens_per_second", self.prefill_tokens_per_second, above=True, most=1e9)
        check("decode_step_seconds", self.decode_step_seconds, above=True, most=3600)
        check("decode_step_per_request", self.decode_step_per_request, most=3600)
        check("waiting_tokens", self.waiting_tokens, most=1e9)
        check("capacity_share", self.capacity_share, above=True, most=1)
        check("tie_margin", self.tie_margin, most=1)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        endpoints, now = candidates.endpoints, candidates.now
        prompt, output = request.prompt_tokens, request.expected_output_tokens
        rate, step, slope = self.prefill_tokens_per_second, self.decode_step_seconds, self.decode_step_per_request
        costs = []
        full = []
        for index, (endpoint, cached) in enumerate(zip(endpoints, candidates.cached_tokens, strict=True)):
            load, weight = endpoint.load, endpoint.weight
            ahead: float = load.prefill_tokens
            batch: float = load.requests
            lately = load.recent_tokens / LATELY_SECONDS * step / weight
            if lately > batch:
                batch = lately
            metrics = endpoint.metrics
            if metrics is not None:
                if metrics.fresh(now):
                    ahead = max(ahead, (metrics.waiting or 0) * self.waiting_tokens)
                    batch = max(batch, metrics.running or 0)
                if saturated(endpoint, self.capacity_share, request, now):
                    full.append(index)
            left = ahead + prompt - cached
            costs.append((left / rate + output * (step + slope * (batch + 1.0))) / weight)
        if len(full) < len(costs):  # else beside it no difference would count
            for index in full:
                costs[index] += LAST_RESORT
        return costs
