"""What one decision costs: `python -m benchmarks.schedule`, a table of µs by policy and number of endpoints.

Timed is Scheduler.schedule alone, with all that a busy gateway has: loads, fresh readings, prompts of 8 KB of which
endpoints hold different parts, sessions, answers that the policy has heard of. Requests are booked and settled between
the decisions, untimed, so that the loads move. Shown is the median of several runs, each of many decisions.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import click

from llmgate.core.ledger import Charge
from llmgate.core.pool import EndpointPool
from llmgate.core.prefix import block_end
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, EndpointSpec, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.routing import registry
from llmgate.routing.pickers import MaxPicker
from llmgate.routing.profile import Profile

SIZES = (8, 64, 512)
BLOCKS = 20  # of a prompt: 8 KB
SESSIONS = 1000


def composed() -> Router:
    """A profile of a filter and the three scorers that most will want."""
    scorers = [
        (registry.SCORERS.create(name), weight) for name, weight in (("prefix", 3.0), ("load", 2.0), ("recent", 1.0))
    ]
    return Profile([registry.FILTERS.create("kv-room")], scorers, MaxPicker())


def routers() -> Mapping[str, Router]:
    return {**{name: registry.create(name) for name in registry.BUILT_IN}, "profile": composed()}


class Gateway:
    """A scheduler at work, `size` endpoints and as many requests in flight as four for each."""

    def __init__(self, router: Router, size: int) -> None:
        pool = EndpointPool(
            [EndpointSpec(f"e{n}", f"http://e{n}", 1.0 + n % 3, models={"m": "m"}) for n in range(size)]
        )
        self._random = Random(0)
        for endpoint in pool:
            endpoint.health.probe_passed()
            endpoint.metrics = EndpointMetrics(0.0, 4, 1, self._random.uniform(0.2, 0.7), 500_000, lifetime=1e9)
        self.scheduler = Scheduler(pool, router)
        self._in_flight: deque[Charge] = deque()
        self._most = 4 * size
        self._now = 0.0
        for request in self.requests(3 * self._most):
            self.serve(request)

    def requests(self, number: int) -> Iterator[InferenceRequest]:
        """Conversations of different lengths: what is held of them differs from endpoint to endpoint."""
        for _ in range(number):
            session = self._random.randrange(SESSIONS)
            blocks = self._random.randrange(1, BLOCKS + 1)
            keys = (*range(4), *(1000 * session + block for block in range(4, blocks)))[:blocks]
            needs = self.scheduler.router
            yield InferenceRequest(
                id="r",
                kind=Kind.CHAT,
                model="m",
                stream=True,
                prompt_tokens=block_end(blocks) // 4,
                expected_output_tokens=self._random.randrange(20, 400),
                prompt_bytes=block_end(blocks),
                prefix=keys if needs.needs_prefix else (),
                session=f"session-{session}" if needs.needs_session else None,
            )

    def serve(self, request: InferenceRequest) -> float:
        """Seconds that the decision took."""
        self._now += 0.001
        request.holders = self.scheduler.holders(request.prefix)  # known from intake, which is timed elsewhere
        before = time.perf_counter()
        decision = self.scheduler.schedule(request, self._now)
        took = time.perf_counter() - before
        self._in_flight.append(self.scheduler.book(request, decision, self._now))
        if len(self._in_flight) > self._most:
            charge = self._in_flight.popleft()
            usage = Usage(charge.request.prompt_tokens, charge.request.expected_output_tokens)
            self.scheduler.settle(charge, TerminationCause.COMPLETED, self._now, verdict=Verdict.GOOD, usage=usage)
        return took


def microseconds(name: str, size: int, decisions: int, runs: int) -> float:
    """Of one decision: the median over the runs of each run's median."""
    medians = []
    for _ in range(runs):
        gateway = Gateway(routers()[name], size)
        medians.append(statistics.median(gateway.serve(request) for request in gateway.requests(decisions)))
    return 1e6 * statistics.median(medians)


def table(names: Sequence[str], sizes: Sequence[int], decisions: int, runs: int) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| µs | " + " | ".join(f"{size} endpoints" for size in sizes) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for name in names:
        costs = [microseconds(name, size, decisions, runs) for size in sizes]
        yield f"| {name} | " + " | ".join(f"{cost:.1f}" if cost < 100 else f"{cost:.0f}" for cost in costs) + " |"


@click.command()
@click.argument("names", nargs=-1, metavar="[POLICY …]")
@click.option(
    "--size", "sizes", type=click.IntRange(1, 4096), multiple=True, default=SIZES, help="Endpoints; repeatable."
)
@click.option("--decisions", type=click.IntRange(1), default=2000, help="In each run.")
@click.option("--runs", type=click.IntRange(1), default=3)
def main(names: tuple[str, ...], sizes: tuple[int, ...], decisions: int, runs: int) -> None:
    """Time decisions of the named policies; of all by default."""
    known = list(routers())
    if unknown := set(names) - set(known):
        raise click.UsageError(f"there is no policy {sorted(unknown)[0]!r}; there are: {', '.join(known)}")
    for line in table(names or known, sizes, decisions, runs):
        click.echo(line)


if __name__ == "__main__":
    main()
