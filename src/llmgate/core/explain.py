"""Why a request went where it went, put together at the moment of the decision: a moment later the loads are others."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain, islice
from typing import NamedTuple

from llmgate.core.health import State
from llmgate.core.protocols import Candidates, Part, Router
from llmgate.core.slo import Prediction, Slo
from llmgate.core.types import Endpoint, InferenceRequest

MOST_OPTIONS = 16
"""Endpoints in an explanation: whoever reads more of them wants the metrics."""


class Why(enum.StrEnum):
    """What became of an endpoint in a decision. The last five were no candidates."""

    CHOSEN = "chosen"
    TIED = "tied"  # as good as the chosen one: fewer recent tokens, or chance, decided
    OVER_SLO = "over_slo"  # predicted to miss a target of the request
    NO_ROOM = "no_room"  # its KV cache has no room for the prompt now, and it costs more
    COSTLIER = "costlier"
    BUSY = "busy"  # it refused a request as full a moment ago
    TRIED = "tried"  # it failed this request before, or its make has no path for such requests
    DRAINING = "draining"
    TRIAL = "trial"  # half open, with its trial request under way
    NOT_READY = "not_ready"


class Option(NamedTuple):
    """One endpoint at the moment of a decision, before the request was booked."""

    endpoint: str
    why: Why
    requests: int  # in flight there
    prompt_tokens_ahead: int  # of those, not yet computed
    cost: float | None = None  # None, as the rest, for those that were no candidates
    cached_tokens: int | None = None
    told: bool | None = None  # the cached tokens are by its own KV events; else learnt
    predicted: Prediction | None = None  # None if the policy predicts nothing


@dataclass(slots=True, eq=False)
class Explanation:
    """What a decision was made by, and what came of it: seconds, None as long as they are unknown."""

    slo: Slo | None = None
    predicted: Prediction | None = None  # of the chosen endpoint
    options: Sequence[Option] = ()  # the chosen one first, then candidates by cost, then the others
    left_out: int = 0  # endpoints of the model beyond MOST_OPTIONS
    observed_ttft: float | None = None  # from the decision, as predicted
    observed_tpot: float | None = None
    audience: Part | None = None  # who is to hear what becomes of the request, beside the policy


def explain(
    router: Router,
    request: InferenceRequest,
    members: Sequence[Endpoint],
    candidates: Candidates,
    costs: Sequence[float],
    chosen: int,
    told: Collection[int],
    tried: Collection[Endpoint],
) -> Explanation:
    """`members` are all endpoints of the request's model, `chosen` the index of the choice among the candidates, `told`
    the slots of those whose cached tokens are by their own KV events."""
    endpoints, cached, now = candidates
    slo, best = request.slo, costs[chosen]

    def candidate(index: int) -> Option:
        endpoint = endpoints[index]
        predicted = router.predict(request, endpoint, cached[index], now)
        if index == chosen:
            why = Why.CHOSEN
        elif slo is not None and predicted is not None and predicted.misses(slo):
            why = Why.OVER_SLO
        elif costs[index] <= best:
            why = Why.TIED
        else:
            why = Why.COSTLIER if predicted is None or predicted.room else Why.NO_ROOM
        load = endpoint.load
        told_itself = endpoint.slot in told
        return Option(
            endpoint.name, why, load.requests, load.prefill_tokens, costs[index], cached[index], told_itself, predicted
        )

    order = nsmallest(MOST_OPTIONS, range(len(costs)), key=lambda index: (index != chosen, costs[index]))
    others = _others(members, set(endpoints), tried, now)
    options = list(islice(chain(map(candidate, order), others), MOST_OPTIONS))
    return Explanation(slo, options[0].predicted, options, max(len(members) - len(options), 0))


def _others(
    members: Sequence[Endpoint], candidates: Collection[Endpoint], tried: Collection[Endpoint], now: float
) -> Iterator[Option]:
    for endpoint in members:
        if endpoint in candidates:
            continue
        if endpoint in tried:
            why = Why.TRIED
        elif endpoint.draining:
            why = Why.DRAINING
        elif endpoint.health.state is State.HALF_OPEN:
            why = Why.TRIAL
        elif not endpoint.health.available:
            why = Why.NOT_READY
        else:
            why = Why.BUSY
        yield Option(endpoint.name, why, endpoint.load.requests, endpoint.load.prefill_tokens)
