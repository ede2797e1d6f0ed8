"""The check lets routers pass that keep the contract (tests/routing), and none that break it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from llmgate.core.health import State
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest, Usage
from llmgate.testing import check_router


class Good(Router):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float(endpoint.load.tokens) for endpoint in candidates.endpoints]


def swap_tokens(request: Any, endpoint: Any) -> None:
    load = endpoint.load
    load.prefill_tokens, load.decode_tokens = load.decode_tokens, load.prefill_tokens


def put(path: str, value: object) -> Callable[[Any, Any], None]:
    """Sets `request.x`, `endpoint.y.z` …"""

    def change(request: Any, endpoint: Any) -> None:
        first, *middle, last = path.split(".")
        thing = {"request": request, "endpoint": endpoint}[first]
        for name in middle:
            thing = getattr(thing, name)
        setattr(thing, last, value)

    return change


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    **{
        path: put(path, value)
        for path, value in {
            "request.prompt_tokens": 0,
            "request.expected_output_tokens": -1,
            "request.model": "other",
            "request.prefix": (1,),
            "endpoint.weight": 7.0,
            "endpoint.models": {},
            "endpoint.engine": "vllm",
            "endpoint.draining": True,
            "endpoint.metrics": EndpointMetrics(at=-1.0),
            "endpoint.health.reason": "x",
            "endpoint.health.state": State.UP,
            "endpoint.health.until": 1.0,
            "endpoint.load.requests": -1,
            "endpoint.load.recent_tokens": -1.0,
        }.items()
    },
    "swapped tokens": swap_tokens,
    "a model": lambda _, endpoint: endpoint.models.update(x="x"),
    "a label": lambda _, endpoint: endpoint.spec.labels.update(x="x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("when", ["score", "booked", "answered", "finished", "ended"])
def test_a_router_that_changes_what_it_is_given_is_found_out(when: str, change: Callable[[Any, Any], None]) -> None:
    class Meddler(Good):
        def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
            costs = super().score(request, candidates)
            if when == "score":
                change(request, candidates.endpoints[-1])
            return costs

        def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            if when == "booked":
                change(request, endpoint)

        def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            if when == "answered":
                change(request, endpoint)

        def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            if when == "ended":
                change(request, endpoint)

        def finished(
            self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
        ) -> None:
            if when == "finished":
                change(request, endpoint)

    with pytest.raises(AssertionError, match=rf"{when}\(\) changed what it was given"):
        check_router(Meddler)


class TooFew(Good):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return super().score(request, candidates)[1:]


class Infinite(Good):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float("inf") for _ in candidates.endpoints]


class ByPosition(Good):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float(index) for index, _ in enumerate(candidates.endpoints)]


@dataclass
class ByChance(Good):
    dice: Random = field(default_factory=Random)

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.dice.random() for _ in candidates.endpoints]


class ByOurChance(Good):
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [self.random.random() for _ in candidates.endpoints]


@pytest.mark.parametrize(
    ("router", "says"),
    [
        (TooFew, "costs for"),
        (Infinite, "a cost is not finite"),
        (ByPosition, "the order of candidates matters"),
        (ByChance, "the same history gave other costs"),
    ],
)
def test_each_rule_that_is_broken_is_named(router: Callable[[], Router], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_router(router)


@pytest.mark.parametrize("router", [Good, ByOurChance])
def test_a_router_that_keeps_the_rules_passes(router: Callable[[], Router]) -> None:
    check_router(router)


def test_a_router_hears_one_end_of_each_request_at_most_and_after_all_else() -> None:
    class Listener(Good):
        def __init__(self) -> None:
            self.open: dict[InferenceRequest, list[str]] = {}
            self.kinds: set[tuple[str, ...]] = set()

        def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            self.open[request] = []

        def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            self.open[request].append("answered")

        def finished(
            self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
        ) -> None:
            self.open[request].append("finished")

        def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
            self.kinds.add(tuple(self.open.pop(request)))

    made: list[Listener] = []

    def make() -> Listener:
        made.append(Listener())
        return made[-1]

    check_router(make)
    assert made[0].kinds == {(), ("answered",), ("answered", "finished")}
