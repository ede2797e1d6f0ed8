"""What each policy does with the same requests: the real scheduler and routers in front of very simple engines.

An engine here works through its tokens one request after another, at a fixed rate, and has computed what it has seen.
That is no model of an LLM engine; it is enough to show how policies differ, and it is exact and quick.
"""

from __future__ import annotations

import heapq
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from random import Random

from llmgate.core.hardware import prior_weight
from llmgate.core.ledger import Charge
from llmgate.core.pool import EndpointPool
from llmgate.core.prefix import block_end
from llmgate.core.protocols import Candidates, Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointSpec, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.routing import registry
from llmgate.wire.prefix_keys import prefix_keys

MODEL = "m"
BYTES_PER_TOKEN = 4


class LongestMatch(Router):
    """Always the endpoint that has seen most of the prompt: what prefix-affinity would be without its bound."""

    needs_prefix = True

    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        return [float(request.prompt_tokens - cached) for cached in candidates.cached_tokens]


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float  # seconds
    prompt: bytes
    output: int  # tokens
    session: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a run. Times are seconds."""

    requests: Counter[str] = field(default_factory=Counter)  # by endpoint
    order: list[str] = field(default_factory=list)  # endpoints in the order of the requests
    waits: list[float] = field(default_factory=list)  # from arrival until the engine begins with the request
    times: list[float] = field(default_factory=list)  # from arrival until it is done
    tokens: Counter[str] = field(default_factory=Counter)  # prompt and output, by endpoint
    in_flight: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)  # after each arrival
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens

    @property
    def mean_wait(self) -> float:
        return statistics.fmean(self.waits)

    @property
    def wait_p99(self) -> float:
        return p99(self.waits)

    @property
    def mean_time(self) -> float:
        return statistics.fmean(self.times)

    @property
    def time_p99(self) -> float:
        return p99(self.times)


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def run(router: Router, arrivals: Iterable[Arrival], rates: Sequence[float], weights: Sequence[float] = ()) -> Outcome:
    """`rates`: tokens a second of each engine; they set how many there are."""
    pool = EndpointPool(
        [
            EndpointSpec(name, f"http://{name}", weight, models={MODEL: MODEL})
            for name, weight in zip(names(len(rates)), weights or [1.0] * len(rates), strict=True)
        ]
    )
    for endpoint in pool:
        endpoint.health.probe_passed()
    scheduler = Scheduler(pool, router)
    rate = dict(zip(names(len(rates)), rates, strict=True))
    free_at = dict.fromkeys(rate, 0.0)
    caches: dict[str, set[int]] = {name: set() for name in rate}  # prompt blocks that each has computed
    running: list[tuple[float, int, Charge, Usage | None]] = []  # what comes: with usage an end, else a first token
    outcome, numbers = Outcome(), count()
    for arrival in arrivals:
        while running and running[0][0] <= arrival.at:
            done, _, charge, usage = heapq.heappop(running)
            if usage is None:
                scheduler.answered(charge, done)
                continue
            scheduler.settle(charge, TerminationCause.COMPLETED, done, verdict=Verdict.GOOD, usage=usage)
        request = _request(scheduler, arrival, next(numbers))
        decision = scheduler.schedule(request, arrival.at)
        endpoint = decision.endpoint
        charge = scheduler.book(request, decision, arrival.at)
        cached = _cached(caches[endpoint.name], request, arrival.prompt)
        begins = max(free_at[endpoint.name], arrival.at)
        work = request.prompt_tokens - cached + arrival.output
        ends = free_at[endpoint.name] = begins + work / rate[endpoint.name]
        first = begins + (request.prompt_tokens - cached) / rate[endpoint.name]
        heapq.heappush(running, (first, next(numbers), charge, None))
        heapq.heappush(running, (ends, next(numbers), charge, Usage(request.prompt_tokens, arrival.output)))
        outcome.requests[endpoint.name] += 1
        outcome.order.append(endpoint.name)
        outcome.waits.append(begins - arrival.at)
        outcome.times.append(ends - arrival.at)
        outcome.tokens[endpoint.name] += request.prompt_tokens + arrival.output
        outcome.in_flight.append((arrival.at, {each.name: each.load.requests for each in pool}))
        outcome.prompt_tokens += request.prompt_tokens
        outcome.cached_tokens += cached
    return outcome


def names(number: int) -> list[str]:
    return [f"engine {letter}" for letter in "ABCDEFGH"[:number]]


def _request(scheduler: Scheduler, arrival: Arrival, number: int) -> InferenceRequest:
    keys = prefix_keys(MODEL, arrival.prompt) if scheduler.router.needs_prefix else ()
    return InferenceRequest(
        id=str(number),
        kind=Kind.CHAT,
        model=MODEL,
        stream=True,
        prompt_tokens=len(arrival.prompt) // BYTES_PER_TOKEN,
        expected_output_tokens=scheduler.expect_output(MODEL, Kind.CHAT, None),
        prompt_bytes=len(arrival.prompt),
        prefix=keys,
        session=arrival.session if scheduler.router.needs_session else None,
    )


def _cached(seen: set[int], request: InferenceRequest, prompt: bytes) -> int:
    """Prompt tokens that an engine has computed before, if it forgets nothing; from now on the whole prompt."""
    keys = prefix_keys(MODEL, prompt)
    blocks = sum(1 for _ in takewhile(seen.__contains__, keys))
    seen.update(keys)
    return min(block_end(blocks) // BYTES_PER_TOKEN, request.prompt_tokens)


# The scenes ----------------------------------------------------------------------------------------------------------


def turns(weights: Sequence[float] = (2.0, 1.0, 1.0), requests: int = 24) -> Outcome:
    """Round-robin over engines of different weights."""
    arrivals = [Arrival(float(second), b"x" * 400, 100) for second in range(requests)]
    return run(registry.create("round-robin"), arrivals, [1000.0] * len(weights), weights)


def chance(requests: int = 240) -> Outcome:
    """Equal requests by chance over eight equal engines."""
    arrivals = [Arrival(float(second), b"x" * 400, 100) for second in range(requests)]
    return run(registry.create("random"), arrivals, [1000.0] * 8)


def two_choices() -> Mapping[str, Outcome]:
    """Eight equal engines at 80 %, requests of any size."""
    rates = [4000.0] * 8
    arrivals = list(
        _poisson(
            0.8 * sum(rates) / 700,
            6000,
            lambda random: Arrival(0.0, _text(random, 4 * int(random.expovariate(1 / 500)) + 4), 200),
        )
    )
    return {name: run(registry.create(name), arrivals, rates) for name in ("random", "power-of-two", "token-aware")}


FLEET = ("B200", "H100", "A100-80GB", "A100-40GB", "L40S")


def fleet() -> tuple[Mapping[str, float], Outcome]:
    """One engine on each GPU, as fast as its weight says; a tenth more than they can do. Weights and outcome."""
    weights = {gpu: prior_weight(gpu) or 0.0 for gpu in FLEET}
    rates = [4000.0 * weight for weight in weights.values()]
    arrivals = list(
        _poisson(
            1.1 * sum(rates) / 700,
            8000,
            lambda random: Arrival(0.0, _text(random, 4 * int(random.expovariate(1 / 500)) + 4), 200),
        )
    )
    return weights, run(registry.create("hardware-weighted"), arrivals, rates, list(weights.values()))


def conversations(users: int = 300) -> Mapping[str, Outcome]:
    """Users with nothing in common, each in a conversation of six turns with a session of its own; four engines."""
    random = Random(0)
    arrivals = []
    for user in range(users):
        at, prompt = random.uniform(0, 300), b""
        for _ in range(6):
            prompt += _text(random, 2000)  # a question and its documents
            arrivals.append(Arrival(at, prompt, 100, f"user-{user}"))
            prompt += _text(random, 100 * BYTES_PER_TOKEN)
            at += random.uniform(10, 40)
    arrivals.sort(key=lambda arrival: arrival.at)
    named = ("least-connections", "session-affinity", "prefix-affinity")
    return {name: run(registry.create(name), arrivals, [8000.0] * 4) for name in named}


SITUATIONS = ("idle", "idle, holds 6,144 tokens of it", "holds as much, 20,000 tokens ahead", "idle, weight 1.6")


def expectations() -> Mapping[str, float]:
    """What expected-latency says of one request in four situations: the seconds that it takes and takes from others."""
    pool = EndpointPool(
        [EndpointSpec(name, "http://e", 1.6 if "1.6" in name else 1.0, models={MODEL: MODEL}) for name in SITUATIONS]
    )
    for endpoint in pool:
        endpoint.health.probe_passed()
    scheduler = Scheduler(pool, registry.create("expected-latency"))
    prompt = Random(0).randbytes(16_384).hex().encode()
    for endpoint in pool:
        others = [each for each in pool if each is not endpoint]
        if "holds" in endpoint.name:
            seen = _request(scheduler, Arrival(0.0, prompt[: 6144 * BYTES_PER_TOKEN], 0), 0)
            charge = scheduler.book(seen, scheduler.schedule(seen, 0.0, others), 0.0)
            scheduler.settle(charge, TerminationCause.COMPLETED, 0.0)
        if "ahead" in endpoint.name:
            for _ in range(2):
                ahead = InferenceRequest("ahead", Kind.CHAT, MODEL, True, 10_000, 200)
                scheduler.book(ahead, scheduler.schedule(ahead, 3600.0, others), 3600.0)
    for endpoint in pool:
        endpoint.load.recent_tokens = 0.0
    asked = _request(scheduler, Arrival(0.0, prompt, 0), 1)
    asked.expected_output_tokens = 100
    decision = scheduler.schedule(asked, 3600.0)
    return {each.name: cost for each, cost in zip(decision.candidates.endpoints, decision.costs, strict=True)}


def slow_engine(*policies: str) -> Mapping[str, Outcome]:
    """Four engines, one of a third of the others' speed that nobody told the gateway of; 80 % of what they can do."""
    rates = [3000.0, 3000.0, 3000.0, 1000.0]
    tokens = 600
    arrivals = list(_poisson(0.8 * sum(rates) / tokens, 1200, lambda random: Arrival(0.0, _text(random, 1600), 200)))
    return {name: run(registry.create(name), arrivals, rates) for name in policies}


def mixed_sizes() -> Mapping[str, Outcome]:
    """Nine of ten requests are short (300 tokens), one is long (8,800); four engines at 70 %."""
    rates = [5000.0] * 4
    mean = 0.9 * 300 + 0.1 * 8800

    def draw(random: Random) -> Arrival:
        return (
            Arrival(0.0, _text(random, 800), 100) if random.random() < 0.9 else Arrival(0.0, _text(random, 32_000), 800)
        )

    arrivals = list(_poisson(0.7 * sum(rates) / mean, 4000, draw))
    return {
        name: run(registry.create(name), arrivals, rates)
        for name in ("round-robin", "least-connections", "token-aware")
    }


def shared_prompt(users: int = 1000) -> Mapping[str, Outcome]:
    """`users` with one system prompt of 1,000 characters, each in a conversation of four turns; four engines."""
    random = Random(0)
    system = _text(random, 1000)
    arrivals = []
    for _ in range(users):
        at, prompt = random.uniform(0, 600), system
        for _ in range(4):
            prompt += _text(random, 400)  # a question
            output = random.randrange(50, 150)
            arrivals.append(Arrival(at, prompt, output))
            prompt += _text(random, output * BYTES_PER_TOKEN)
            at += random.uniform(10, 40)
    arrivals.sort(key=lambda arrival: arrival.at)
    named = ("round-robin", "least-connections", "token-aware", "prefix-affinity", "expected-latency")
    routers = {name: registry.create(name) for name in named}
    return {
        name: run(router, arrivals, [4000.0] * 4)
        for name, router in {"longest match alone": LongestMatch(), **routers}.items()
    }


def _poisson(rate: float, requests: int, draw: Callable[[Random], Arrival]) -> Iterable[Arrival]:
    """`requests` of them, `rate` a second."""
    random = Random(0)
    now = 0.0
    for _ in range(requests):
        now += random.expovariate(rate)
        drawn = draw(random)
        yield Arrival(now, drawn.prompt, drawn.output)


def _text(random: Random, size: int) -> bytes:
    """Bytes that no other call gives."""
    return random.randbytes(size // 2).hex().encode()
