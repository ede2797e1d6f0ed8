"""What other policies would have chosen. Each is asked about the same candidates at the same moment as the one that
routes, and one judge says of every choice what it is expected to take.

That is a judgement of single steps: nobody follows the others, so what their choices would have led to is not seen.
Replay the traffic in the simulator for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

from llmgate.core.choice import pick
from llmgate.core.protocols import Candidates, Part, Router
from llmgate.core.slo import Prediction
from llmgate.core.types import Endpoint, InferenceRequest, Usage

Judge = Callable[[InferenceRequest, Endpoint, int, float], Prediction | None]
"""What a request is expected to take on an endpoint that holds so many tokens of its prompt, at a time: as
`Router.predict`."""


@dataclass(slots=True)
class Standing:
    """What a policy's choices come to: sums over the decisions that it was asked about."""

    name: str
    note: str = ""  # why it is asked no more, or never was
    decisions: int = 0
    same: int = 0  # those in which it chose as the policy that routes
    ttft: float = 0.0  # seconds, expected
    e2e: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    chosen: Counter[str] = field(default_factory=Counter)  # by endpoint

    @property
    def busiest(self) -> int:
        """Decisions for the endpoint that was chosen most."""
        return max(self.chosen.values(), default=0)

    def count(self, request: InferenceRequest, candidates: Candidates, chosen: int, expected: Prediction) -> None:
        self.decisions += 1
        self.ttft += expected.ttft
        self.e2e += expected.ttft + expected.tpot * request.expected_output_tokens
        self.prompt_tokens += request.prompt_tokens
        self.cached_tokens += candidates.cached_tokens[chosen]
        self.chosen[candidates.endpoints[chosen].name] += 1


class Comparison(Part):
    """Hears of the requests that were compared, and of no others, what a router hears, and tells the rivals. A rival
    that raises is asked no more: it cannot harm a request."""

    def __init__(
        self,
        active: str,
        rivals: Mapping[str, Router | str],
        judge: Judge,
        random: Random,
        *,
        failed: Callable[[str, Exception], None],
        spacing: float = 0.0,
    ) -> None:
        """`rivals` are the other policies by name, each with why it cannot be compared in place of a router where that
        is so. They must be nobody else's: what is asked of them changes them. `failed` is told of one that raised.
        After a comparison there is none for `spacing` seconds for each candidate that it had."""
        self.active = Standing(active)
        self.decisions = 0
        self._judge = judge
        self._random = random
        self._failed = failed
        self._spacing = spacing
        self._next_at = -inf
        self._routers: dict[str, Router] = {}
        self._standings = {name: Standing(name) for name in rivals}
        for name, rival in rivals.items():
            if isinstance(rival, str):
                self._standings[name].note = rival
            else:
                rival.random = random
                self._routers[name] = rival

    @property
    def standings(self) -> Sequence[Standing]:
        """The policy that routes, then the others."""
        return [self.active, *self._standings.values()]

    def compare(self, request: InferenceRequest, candidates: Candidates, chosen: int) -> bool:
        """`chosen` is the index of the policy's choice among the candidates. To be called before anything is booked.
        False: not this one, so do not tell of it."""
        endpoints, cached, now = candidates
        if now < self._next_at:
            return False
        self._next_at = now + self._spacing * len(endpoints)
        expected: dict[int, Prediction] = {}

        def judged(index: int) -> Prediction | None:
            if index not in expected and (said := self._judge(request, endpoints[index], cached[index], now)):
                expected[index] = said
            return expected.get(index)

        own = judged(chosen)
        if own is None:
            return False
        self.decisions += 1
        self.active.same += 1
        self.active.count(request, candidates, chosen, own)

        def ask(name: str, router: Router) -> None:
            index, _ = pick(endpoints, router.score(request, candidates), router.tie_margin, self._random)
            if (said := judged(index)) is not None:
                standing = self._standings[name]
                standing.same += index == chosen
                standing.count(request, candidates, index, said)

        self._each(ask)
        return True

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._each(lambda _, router: router.booked(request, endpoint, now))

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._each(lambda _, router: router.answered(request, endpoint, now))

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        self._each(lambda _, router: router.finished(request, endpoint, usage, seconds, now))

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        self._each(lambda _, router: router.ended(request, endpoint, now))

    def removed(self, endpoint: Endpoint) -> None:
        self._each(lambda _, router: router.removed(endpoint))
        for standing in self.standings:
            standing.chosen.pop(endpoint.name, None)

    def _each(self, tell: Callable[[str, Router], None]) -> None:
        for name, router in tuple(self._routers.items()):
            try:
                tell(name, router)
            except Exception as error:
                del self._routers[name]
                self._standings[name].note = f"failed: {type(error).__name__}"
                self._failed(name, error)
