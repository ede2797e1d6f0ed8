"""The interfaces between the scheduler and a routing policy, and between a composed policy and its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from llmgate.core.slo import Prediction
from llmgate.core.types import Endpoint, InferenceRequest, Usage


class Candidates(NamedTuple):
    """What a policy chooses from. The sequences are aligned by index; nothing in here may be changed by a policy."""

    endpoints: Sequence[Endpoint]  # ready, serving the model, not tried yet; at least one
    cached_tokens: Sequence[int]  # leading prompt tokens that each endpoint is thought to hold; zeros if not asked for
    now: float  # seconds, monotonic


class Part:
    """What a Router has in common with the parts that one can be composed of: what it asks for and what it hears."""

    needs_prefix: bool = False
    """Ask for `Candidates.cached_tokens`; it costs a hash of the prompt and an index look-up a request."""

    needs_session: bool = False
    """Ask for `InferenceRequest.session`; it costs a look into headers and body a request."""

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        """`request` goes to `endpoint`. For policies that remember; the default does nothing."""

    def answered(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        """The first byte of a good answer has come; of one that is not streamed, that is with its last. The default
        does nothing, and costs nothing: the scheduler calls it only where it is overridden."""

    def ended(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        """`request` is no longer on `endpoint`, whatever became of it: each `booked` has its `ended`, after `finished`
        if that is called; but nothing is heard any more of an endpoint that was `removed`. The default does nothing,
        and costs nothing."""

    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        """`endpoint` has given a whole and good answer, `seconds` after `request` was booked there. The default does
        nothing, and costs nothing: the scheduler calls it only where it is overridden. `usage` is None if unknown."""

    def removed(self, endpoint: Endpoint) -> None:
        """`endpoint` has left the pool: forget it. The default does nothing."""


class Router(Part, ABC):
    """A policy: one cost for each candidate, the lowest wins.

    The scheduler settles ties: among equal costs the endpoint with the fewest recently booked tokens, then a seeded
    random draw; never position. A policy is pure: the same arguments, the same history and the same draws from
    `random` give the same costs.
    """

    tie_margin: float = 0.0
    """Costs within this fraction of the lowest count as equal (0.02 = 2 %)."""

    random: Random
    """The scheduler's own generator, for policies that draw. It is put here before the first call of `score`."""

    @abstractmethod
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        """A finite cost for each of `candidates.endpoints`, in the same order, in one unit of the policy's choice."""

    def predict(
        self, request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float
    ) -> Prediction | None:
        """The times that the policy expects there, for policies that go by them; asked before `booked`, of few requests
        only. The default predicts nothing. A policy that does heeds `request.slo` in its costs, too."""
        return None

    def observed(self, endpoint: Endpoint, predicted: Prediction, ttft: float, tpot: float | None) -> None:
        """What came of a prediction: seconds from the decision to the first token, and from token to token if the
        answer was whole. For policies that correct theirs; the default does nothing."""


class Filter(Part, ABC):
    """A part of a composed policy that says which candidates may be considered."""

    @abstractmethod
    def keep(self, request: InferenceRequest, candidates: Candidates) -> Sequence[bool]:
        """Whether each of `candidates.endpoints` stays, in the same order. If none would, the filter has no effect."""


class Scorer(Part, ABC):
    """A part of a composed policy that says how good each candidate is, in one respect."""

    @abstractmethod
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        """From 0 (worst) to 1 (best) for each of `candidates.endpoints`, in the same order."""


class Picker(ABC):
    """The part of a composed policy that chooses by the weighted means of the scores."""

    @abstractmethod
    def costs(self, scores: Sequence[float], random: Random) -> Sequence[float]:
        """From scores of 0 to 1, higher is better, to costs of 0 or more, lower wins, in the same order."""
