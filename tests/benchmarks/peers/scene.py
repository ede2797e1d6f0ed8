"""A scheduler with a peer's rule in it, and short ways to send it prompts."""

from __future__ import annotations

from collections.abc import Sequence

from llmgate.core.ledger import Charge
from llmgate.core.prefix import block_end
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointMetrics, InferenceRequest, TerminationCause, Usage, Verdict
from tests.core.make import pool, request


def prompt(*keys: int, tail: int = 0, session: str | None = None) -> InferenceRequest:
    """A prompt with these chain keys and `tail` bytes after them, 4 bytes a token."""
    size = block_end(len(keys)) + tail
    made = request(size // 4, 50, prefix=keys, size=size)
    made.session = session
    return made


class Scene:
    """`size` engines, e0 e1 …, none of which finishes anything by itself."""

    def __init__(self, router: Router, size: int = 2, seed: int = 0) -> None:
        self.scheduler = Scheduler(pool(size), router, seed=seed)
        self.now = 0.0

    def send(self, what: InferenceRequest) -> str:
        """Where it goes; it is in flight from now on."""
        return self.open(what).endpoint.name

    def open(self, what: InferenceRequest) -> Charge:
        decision = self.scheduler.schedule(what, self.now)
        return self.scheduler.book(what, decision, self.now)

    def load(self, *requests: int) -> None:
        """So many more requests in flight on e0, e1 …: those that the rule did not send."""
        for endpoint, number in zip(self.scheduler.pool, requests, strict=False):
            for _ in range(number):
                self.scheduler.ledger.book(request(), endpoint, self.now)

    def finish(self, charge: Charge) -> None:
        usage = Usage(charge.request.prompt_tokens, 10)
        self.scheduler.settle(charge, TerminationCause.COMPLETED, self.now, verdict=Verdict.GOOD, usage=usage)

    def read(self, name: str, *, waiting: int | None = 0, kv_usage: float | None = 0.0, kv: int | None = None) -> None:
        """The scraper has read the engine's gauges."""
        endpoint = self.scheduler.pool.get(name)
        assert endpoint is not None
        endpoint.metrics = EndpointMetrics(self.now, 0, waiting, kv_usage, kv)


def counts(scene: Scene, prompts: Sequence[InferenceRequest]) -> dict[str, int]:
    """How many of the prompts go where, each finished before the next."""
    sent: dict[str, int] = {}
    for each in prompts:
        charge = scene.open(each)
        scene.finish(charge)
        sent[charge.endpoint.name] = sent.get(charge.endpoint.name, 0) + 1
    return sent
