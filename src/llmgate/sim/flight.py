"""One request on its way through the simulated gateway, and one engine as the gateway's network shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llmgate.core.ledger import Charge
from llmgate.core.types import Endpoint, EndpointMetrics, InferenceRequest
from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineRequest
from llmgate.sim.kv_events import KvFeed


@dataclass(slots=True, eq=False)
class Flight:
    """A request and what has become of it so far."""

    index: int  # in the workload
    arrived: float
    request: InferenceRequest
    engine_request: EngineRequest
    tried: list[Endpoint] = field(default_factory=list)
    charge: Charge | None = None  # of the attempt under way
    host: Host | None = None
    answered: bool = False  # the first token has come: no other engine is asked any more
    seen_tokens: int = 0  # of the answer, that the charge was told of


@dataclass(slots=True, eq=False)
class Host:
    """An engine process and the endpoint that the gateway knows it as."""

    number: int  # in order of joining, never used again
    endpoint: Endpoint
    engine: Engine
    serves_from: float = -math.inf  # connections are refused before; inf: for good
    due: float = math.inf  # when the engine was last said to be due
    open: dict[int, Flight] = field(default_factory=dict)  # by index, in order of arrival here
    decoding: dict[int, Flight] = field(default_factory=dict)  # of `open`: those whose answer has begun
    reading: EndpointMetrics | None = None  # taken, and to be seen from `reading_due` on
    reading_due: float = math.inf
    preempted: int = 0
    feed: KvFeed | None = None  # None: the engine does not tell what it caches
    left: bool = False  # the gateway knows it no more

    def take(self, flight: Flight, now: float) -> None:
        """The request has been sent here. The engine has been advanced to `now`."""
        flight.host = self
        flight.answered = False
        flight.seen_tokens = 0
        self.open[flight.index] = flight
        self.engine.submit(flight.engine_request, now)

    def drop(self, flight: Flight) -> None:
        """It has ended here, whichever way."""
        self.open.pop(flight.index, None)
        self.decoding.pop(flight.index, None)

    def show_reading(self) -> None:
        """The gateway has parsed the page of metrics."""
        self.endpoint.metrics = self.reading
        self.reading_due = math.inf

    def show_progress(self) -> None:
        """Tell all charges of the tokens that have come."""
        generated = self.engine.generated
        for flight in self.decoding.values():
            tokens = generated(flight.engine_request)
            if tokens > flight.seen_tokens:
                assert flight.charge is not None
                flight.charge.progress(tokens - flight.seen_tokens)
                flight.seen_tokens = tokens

    def show_cache(self, now: float) -> None:
        """The gateway hears the KV events that are due."""
        if self.feed is not None:
            self.feed.tell(self.engine.take_cache_events(), now)
