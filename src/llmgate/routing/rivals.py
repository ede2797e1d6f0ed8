"""The built-in policies as rivals of the one that routes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from llmgate.core.comparison import Comparison
from llmgate.core.protocols import Router
from llmgate.core.slo import Prediction
from llmgate.core.types import Endpoint, InferenceRequest
from llmgate.routing import registry
from llmgate.routing.expected_latency import ExpectedLatency

SPACING = 0.005
"""Seconds between comparisons for each candidate. One takes some 12 µs for each (nine policies and as many predictions,
on a 2-core virtual machine), so that is 0.25 % of a core however large the fleet is."""


class LoadJudge(ExpectedLatency):
    """Predicts by loads and priors alone, having heard nothing: for a gateway whose own policy predicts nothing."""

    def predict(self, request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float) -> Prediction:
        prefill, ahead = self.engine(endpoint).prefill, endpoint.load.prefill_tokens
        self.engine(endpoint).busy_until = now + prefill.factor_at(now) * prefill.line.slope * ahead
        return super().predict(request, endpoint, cached_tokens, now)


def comparison(
    name: str, active: Router, random: Random, *, sessions: bool, failed: Callable[[str, Exception], None]
) -> Comparison:
    """Of the policy `active`, called `name`, with all others that are built in. `sessions`: requests have session keys
    even if `active` does not ask for them; `failed` is told of a policy that raised."""
    predicts = type(active).predict is not Router.predict
    rivals = {other: _rival(other, active, sessions) for other in registry.BUILT_IN if other != name}
    judge = active.predict if predicts else LoadJudge().predict
    return Comparison(name, rivals, judge, random, failed=failed, spacing=SPACING)


def _rival(name: str, active: Router, sessions: bool) -> Router | str:
    router = registry.create(name)
    if router.needs_prefix and not active.needs_prefix:
        return "not compared: the policy that routes does not look at prompts"
    if router.needs_session and not (active.needs_session or sessions):
        return "not compared: sessions are not looked for, without an access log"
    return router
