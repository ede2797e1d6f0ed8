"""Short ways to make the core's nouns for a test."""

from __future__ import annotations

from itertools import count

from llmgate.core.health import Health, State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint, EndpointMetrics, EndpointSpec, InferenceRequest, Kind

_numbers = count()


def endpoint(name: str = "", slot: int = 0, weight: float = 1.0, metrics: EndpointMetrics | None = None) -> Endpoint:
    """An endpoint that is up and serves the model `m`."""
    name = name or f"engine-{slot}"
    made = Endpoint(EndpointSpec(name, f"http://{name}:8000", weight=weight), slot, Health(), models={"m": "m"})
    made.health.probe_passed()
    made.metrics = metrics
    return made


def request(prompt: int = 100, output: int = 50, *, prefix: tuple[int, ...] = (), size: int = 0) -> InferenceRequest:
    return InferenceRequest(
        id=f"request-{next(_numbers)}",
        kind=Kind.CHAT,
        model="m",
        stream=True,
        prompt_tokens=prompt,
        expected_output_tokens=output,
        prompt_bytes=size or prompt * 4,
        prefix=prefix,
    )


def pool(count: int = 4, *, up: bool = True, **weights: float) -> EndpointPool:
    """`count` endpoints e0, e1 … that serve `m`; weights by name."""
    made = EndpointPool(
        [EndpointSpec(f"e{i}", f"http://e{i}", weights.get(f"e{i}", 1.0), models={"m": "m"}) for i in range(count)]
    )
    if up:
        for each in made:
            each.health.probe_passed()
    return made


def state(health: Health) -> State:
    """Read anew: mypy would otherwise hold a state that was asserted for the one that is there after a call."""
    return health.state
