"""A check that a router of one's own keeps the scheduler's contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random

from llmgate.core.health import Health
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, EndpointMetrics, EndpointSpec, InferenceRequest, Kind, Usage

ROUNDS = 200


def check_router(make: Callable[[], Router], *, seed: int = 0) -> None:
    """Put routers made by `make` through random situations; AssertionError says which rule was broken.

    The rules: one finite cost for each candidate, from 1 endpoint to 64, with and without metrics; the same history
    and the same draws from its `random` give the same costs; where it does not draw, the order of the candidates does
    not matter; nothing that it was given is changed; requests begin and end in any order, with an answer or without; an
    endpoint may leave at any time.
    """
    routers = router, twin, mirrored = make(), make(), make()
    for each in routers:
        each.random = Random(seed)  # as the scheduler does
    random = Random(seed)
    endpoints = [_endpoint(slot, random) for slot in range(64)]
    open_requests: list[tuple[InferenceRequest, Endpoint, float]] = []
    now = 0.0
    for number in range(ROUNDS):
        now += random.random()
        chosen = random.sample(endpoints, random.choice([1, 2, 8, 64]))
        cached = [random.choice([0, 0, random.randrange(2000)]) for _ in chosen]
        request = _request(number, random)
        candidates = Candidates(tuple(chosen), tuple(cached), now)
        before = [_contents(each) for each in (request, *chosen)]
        costs = router.score(request, candidates)
        assert len(costs) == len(chosen), f"{len(costs)} costs for {len(chosen)} candidates"
        assert all(math.isfinite(cost) for cost in costs), f"a cost is not finite: {list(costs)}"
        assert [_contents(each) for each in (request, *chosen)] == before, "score() changed what it was given"
        assert list(twin.score(request, candidates)) == list(costs), "the same history gave other costs"
        backwards = Candidates(tuple(reversed(chosen)), tuple(reversed(cached)), now)
        draws = mirrored.random.getstate()
        mirror = list(reversed(mirrored.score(request, backwards)))
        drew = mirrored.random.getstate() != draws
        assert drew or _close(mirror, costs), "the order of candidates matters"
        winner = min(zip(costs, chosen, strict=True), key=lambda pair: (pair[0], pair[1].slot))[1]
        for each in routers:
            each.booked(request, winner, now)
        assert [_contents(each) for each in (request, *chosen)] == before, "booked() changed what it was given"
        open_requests.append((request, winner, now))
        while len(open_requests) > random.randrange(20):
            _end(routers, *open_requests.pop(random.randrange(len(open_requests))), now, random)
        if random.random() < 0.05:
            open_requests = [one for one in open_requests if one[1] is not winner]  # nothing is heard of them again
            for each in routers:
                each.removed(winner)


def _end(
    routers: Sequence[Router], request: InferenceRequest, endpoint: Endpoint, since: float, now: float, random: Random
) -> None:
    """What a router hears of a request after it was booked: each `booked` has its `ended`, not each has more."""
    answered, good = random.random() < 0.8, random.random() < 0.8
    usage = random.choice([None, Usage(request.prompt_tokens, random.randrange(2000))])
    before = [_contents(each) for each in (request, endpoint)]
    if answered:
        for each in routers:
            each.answered(request, endpoint, now)
        assert [_contents(each) for each in (request, endpoint)] == before, "answered() changed what it was given"
    if answered and good:
        for each in routers:
            each.finished(request, endpoint, usage, now - since, now)
        assert [_contents(each) for each in (request, endpoint)] == before, "finished() changed what it was given"
    for each in routers:
        each.ended(request, endpoint, now)
    assert [_contents(each) for each in (request, endpoint)] == before, "ended() changed what it was given"


def _close(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(left, right, strict=True))


def _contents(thing: object) -> object:
    """Everything that it holds, all the way down: later changes do not show in it."""
    if isinstance(thing, Mapping):
        return {key: _contents(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [_contents(value) for value in thing]
    fields = getattr(thing, "__slots__", ())  # all of the core's nouns have them
    return {name: _contents(getattr(thing, name)) for name in fields} if fields else thing


def _endpoint(slot: int, random: Random) -> Endpoint:
    spec = EndpointSpec(f"engine-{slot}", f"http://engine-{slot}:8000", weight=random.choice([0.5, 1.0, 2.5]))
    endpoint = Endpoint(spec, slot, Health())
    endpoint.models = {"m": "m"}
    if random.random() < 0.5:
        endpoint.metrics = EndpointMetrics(
            at=random.random() * 60,
            running=random.choice([None, random.randrange(64)]),
            waiting=random.choice([None, random.randrange(64)]),
            kv_usage=random.choice([None, random.random()]),
            kv_capacity_tokens=random.choice([None, random.randrange(1000, 1_000_000)]),
        )
    endpoint.load.requests = random.randrange(10)
    endpoint.load.prefill_tokens = random.randrange(10_000)
    endpoint.load.decode_tokens = random.randrange(10_000)
    return endpoint


def _request(number: int, random: Random) -> InferenceRequest:
    return InferenceRequest(
        id=f"request-{number}",
        kind=Kind.CHAT,
        model="m",
        stream=random.random() < 0.5,
        prompt_tokens=random.randrange(1, 20_000),
        expected_output_tokens=random.randrange(0, 2000),
        session=random.choice([None, f"session-{random.randrange(20)}"]),
    )
