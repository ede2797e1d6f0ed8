"""When requests come."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from llmgate.workloads.options import check


def arrivals(random: Random, rate: float, cv: float = 1.0) -> Iterator[float]:
    """Endless arrival times, seconds, in order: a renewal process of `rate` a second.

    The gaps are of a Gamma distribution whose coefficient of variation is `cv`: 1 is a Poisson process, above it
    arrivals come in bursts, below it they are more regular, 0 is a metronome. (As `burstiness` in vLLM's benchmark,
    which is 1/cv²: Gamma shape 1/cv², scale cv²/rate.)
    """
    check(rate > 0, "rate", "must be above 0")
    check(0 <= cv <= 30, "cv", "must be from 0 to 30")
    at = 0.0
    if cv == 0:
        while True:
            at += 1 / rate
            yield at
    shape, scale = 1 / cv**2, cv**2 / rate
    while True:
        at += random.gammavariate(shape, scale)
        yield at
