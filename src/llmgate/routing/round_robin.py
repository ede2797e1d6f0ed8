from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest

TURN = 1e-9
"""Weight of the order of turns against virtual time: it only decides between equal times."""


@dataclass
class _Turns:
    """The turns of one model's endpoints."""

    time: dict[Endpoint, float] = field(default_factory=dict)
    turn: dict[Endpoint, int] = field(default_factory=dict)
    current: float = 0.0
    count: int = 0


@dataclass
class RoundRobin(Router):
    """Each endpoint in turn, in proportion to its weight; blind to load.

    Every endpoint has a virtual time that moves on by 1/weight when it is booked; the one furthest behind is next
    (start-time fair queueing), and of equals the one whose last turn is longest ago. A newcomer starts at the current
    time, so it is not flooded to catch up. Each model has a time of its own: that of a busier one would run ahead of
    the endpoints of a quieter one, and make newcomers of all of them at each of its requests.
    """

    _models: dict[str, _Turns] = field(default_factory=lambda: defaultdict(_Turns), init=False, repr=False)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        turns = self._models[request.model]
        time, turn, current, count = turns.time, turns.turn, turns.current, turns.count
        return [
            max(time.get(endpoint, current), current) - TURN * (count - turn.get(endpoint, 0))
            for endpoint in candidates.endpoints
        ]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        turns = self._models[request.model]
        turns.current = max(turns.time.get(endpoint, turns.current), turns.current)
        turns.time[endpoint] = turns.current + 1.0 / endpoint.weight
        turns.count += 1
        turns.turn[endpoint] = turns.count

    def removed(self, endpoint: Endpoint) -> None:
        for model, turns in list(self._models.items()):
            turns.time.pop(endpoint, None)
            turns.turn.pop(endpoint, None)
            if not turns.time:
                del self._models[model]
