from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest

TURN = 1e-9
"""Weight of the order of turns against virtual time: it only decides between equal times."""


@dataclass
class RoundRobin(Router):
    """Each endpoint in turn, in proportion to its weight; blind to load.

    Every endpoint has a virtual time that moves on by 1/weight when it is booked; the one furthest behind is next
    (start-time fair queueing), and of equals the one whose last turn is longest ago. A newcomer starts at the current
    time, so it is not flooded to catch up.
    """

    _time: dict[Endpoint, float] = field(default_factory=dict, init=False, repr=False)
    _turn: dict[Endpoint, int] = field(default_factory=dict, init=False, repr=False)
    _current: float = field(default=0.0, init=False, repr=False)
    _turns: int = field(default=0, init=False, repr=False)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        time, turn, current, turns = self._time, self._turn, self._current, self._turns
        return [
            max(time.get(endpoint, current), current) - TURN * (turns - turn.get(endpoint, 0))
            for endpoint in candidates.endpoints
        ]

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._current = max(self._time.get(endpoint, self._current), self._current)
        self._time[endpoint] = self._current + 1.0 / endpoint.weight
        self._turns += 1
        self._turn[endpoint] = self._turns

    def removed(self, endpoint: Endpoint) -> None:
        self._time.pop(endpoint, None)
        self._turn.pop(endpoint, None)
