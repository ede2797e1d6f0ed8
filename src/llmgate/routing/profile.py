"""A policy composed of filters, scorers and a picker."""

from __future__ import annotations

from collections.abc import Sequence

from llmgate.core.protocols import Candidates, Filter, Part, Picker, Router, Scorer
from llmgate.core.types import Endpoint, InferenceRequest, Usage
from llmgate.routing.limits import LAST_RESORT

NAME = "profile"
"""What a composed policy is called in `x-llmgate-policy` and in the configuration that was read."""


class Profile(Router):
    """Filters in order, each on what the ones before it left; then the mean of the scores by the scorers' weights, of
    what is left; then the picker.

    A filter that would leave nothing has no effect: a request is not refused for want of an ideal endpoint. An endpoint
    that was filtered out has a cost above all others'. A score outside 0 to 1 counts as the nearer of these,
    what is no number as 0.
    """

    def __init__(self, filters: Sequence[Filter], scorers: Sequence[tuple[Scorer, float]], picker: Picker) -> None:
        """`scorers`: with their weights, of which one at least is above 0 and none below."""
        total = sum(weight for _, weight in scorers)
        if not total > 0.0 or min(weight for _, weight in scorers) < 0.0:
            raise ValueError("a profile needs a scorer with a weight above 0, and none below")
        self._filters = tuple(filters)
        self._scorers = tuple((scorer, weight / total) for scorer, weight in scorers)
        self._picker = picker
        parts: list[Part] = [*filters, *(scorer for scorer, _ in scorers)]
        self.needs_prefix = any(part.needs_prefix for part in parts)
        self.needs_session = any(part.needs_session for part in parts)
        self._parts = tuple(parts)
        self._hear_answers = tuple(part for part in parts if type(part).answered is not Part.answered)
        self._hear_good_ends = tuple(part for part in parts if type(part).finished is not Part.finished)
        self._hear_ends = tuple(part for part in parts if type(part).ended is not Part.ended)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        kept = list(range(len(candidates.endpoints)))
        left = candidates
        for each in self._filters:
            keep = each.keep(request, left)
            if not all(keep) and any(keep):
                kept = [index for index, stays in zip(kept, keep, strict=True) if stays]
                left = Candidates(
                    [candidates.endpoints[index] for index in kept],
                    [candidates.cached_tokens[index] for index in kept],
                    candidates.now,
                )
        means = [0.0] * len(kept)
        for scorer, weight in self._scorers:
            scores = scorer.score(request, left)
            means = [
                mean + weight * (score if 0.0 <= score <= 1.0 else 1.0 if score > 1.0 else 0.0)
                for mean, score in zip(means, scores, strict=True)
            ]
        picked = self._picker.costs(means, self.random)
        if len(kept) == len(candidates.endpoints):
            return picked
        costs = [LAST_RESORT] * len(candidates.endpoints)
        for index, cost in zip(kept, picked, strict=True):
            costs[index] = cost
        return costs

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        for part in self._parts:
            part.booked(request, endpoint, now)

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        for part in self._hear_answers:
            part.answered(request, endpoint, now)

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        for part in self._hear_good_ends:
            part.finished(request, endpoint, usage, seconds, now)

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        for part in self._hear_ends:
            part.ended(request, endpoint, now)

    def removed(self, endpoint: Endpoint) -> None:
        for part in self._parts:
            part.removed(endpoint)
