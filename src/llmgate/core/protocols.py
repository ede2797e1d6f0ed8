"""The interface between the scheduler and a routing policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from llmgate.core.types import Endpoint, InferenceRequest


class Candidates(NamedTuple):
    """What a policy chooses from. The sequences are aligned by index; nothing in here may be changed by a policy."""

    endpoints: Sequence[Endpoint]  # ready, serving the model, not tried yet; at least one
    cached_tokens: Sequence[int]  # leading prompt tokens that each endpoint is thought to hold; zeros if not asked for
    now: float  # seconds, monotonic


class Router(ABC):
    """A policy: one cost for each candidate, the lowest wins.

    The scheduler settles ties: among equal costs the endpoint with the fewest recently booked tokens, then a seeded
    random draw; never position. A policy is pure: the same arguments and the same history give the same costs.
    """

    needs_prefix: bool = False
    """Ask for `Candidates.cached_tokens`; it costs a hash of the prompt and an index look-up a request."""

    needs_session: bool = False
    """Ask for `InferenceRequest.session`: what ties the requests of one conversation together."""

    tie_margin: float = 0.0
    """Costs within this fraction of the lowest count as equal (0.02 = 2 %)."""

    @abstractmethod
    def score(self, request: InferenceRequest, candidates: Candidates) -> Sequence[float]:
        """A finite cost for each of `candidates.endpoints`, in the same order, in one unit of the policy's choice."""

    def booked(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:  # noqa: B027  (optional)
        """`request` goes to `endpoint`. For policies that remember; the default does nothing."""

    def removed(self, endpoint: Endpoint) -> None:  # noqa: B027  (optional)
        """`endpoint` has left the pool: forget it. The default does nothing."""
