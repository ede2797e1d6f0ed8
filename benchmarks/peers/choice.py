"""How a rule that picks one endpoint is put as costs, and how readings get as old as a project lets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from llmgate.core.protocols import Candidates
from llmgate.core.types import Endpoint, EndpointMetrics


def in_order(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """As they were configured, whatever order the candidates come in."""
    return sorted(endpoints, key=lambda endpoint: endpoint.slot)


def only(chosen: Endpoint, endpoints: Sequence[Endpoint]) -> Sequence[float]:
    """Costs that leave no choice. A retry falls to the others alike."""
    return [0.0 if endpoint is chosen else 1.0 for endpoint in endpoints]


def any_of_the_best(endpoints: Sequence[Endpoint], value: Callable[[Endpoint], float], random: Random) -> Endpoint:
    """One of those with the least `value`, drawn."""
    values = [(value(endpoint), endpoint) for endpoint in in_order(endpoints)]
    least = min(each for each, _ in values)
    best = [endpoint for each, endpoint in values if each == least]
    return best[0] if len(best) == 1 else random.choice(best)


class Polled:
    """The engines' own readings as a project has them that asks every `period` seconds: no newer than that, and never
    too old to be used."""

    __slots__ = ("_due", "_period", "_readings")

    def __init__(self, period: float) -> None:
        self._period = period
        self._due = 0.0
        self._readings: dict[str, EndpointMetrics] = {}

    def at(self, candidates: Candidates) -> Mapping[str, EndpointMetrics]:
        """By endpoint name; who has never been read is missing."""
        now = candidates.now
        if now >= self._due:
            self._due = now + self._period
            for endpoint in candidates.endpoints:
                if endpoint.metrics is not None:
                    self._readings[endpoint.name] = endpoint.metrics
        return self._readings

    def forget(self, name: str) -> None:
        self._readings.pop(name, None)
