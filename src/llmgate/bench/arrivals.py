"""When requests are meant to be sent in an open loop."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmgate.workloads.types import TraceRequest


def arrival_times(
    requests: Sequence[TraceRequest],
    rng: random.Random,
    *,
    rate: float | None = None,
    burstiness: float = 1.0,
    rate_scale: float = 1.0,
) -> list[float | None]:
    """Seconds from the start, the first at 0; None for a request that waits for another (`after`).

    With `rate` (requests per second) the gaps are drawn from a Gamma distribution of shape `burstiness` and mean
    1/rate, as by vLLM's `bench serve --burstiness`: 1 is a Poisson process, less is burstier (the coefficient of
    variation is 1/sqrt(burstiness)). Without it they are the workload's own times, `rate_scale` times as fast.
    """
    first = next((request.at for request in requests if request.after is None), 0.0)
    times: list[float | None] = []
    at = 0.0
    for request in requests:
        if request.after is not None:
            times.append(None)
        elif rate is None:
            times.append((request.at - first) / rate_scale)
        else:
            times.append(at)
            at += rng.gammavariate(burstiness, 1 / (rate * burstiness))
    return times
