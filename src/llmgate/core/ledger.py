"""Who owes what to whom: every attempt is booked on its endpoint's load and settled at most once, whatever happens.

This is the only file that writes to a Load.
"""

from __future__ import annotations

from collections import Counter

from llmgate.core.types import Endpoint, InferenceRequest, Load, TerminationCause

OVERRUN_TOKENS = 16
"""A request that has produced all it was expected to is still running: it stays booked with this many tokens."""


class Charge:
    """Tokens and one request, booked on one endpoint. It holds the Load itself: it survives the endpoint's removal."""

    __slots__ = ("_decode", "_kv", "_load", "_prefill", "booked_at", "endpoint", "request", "settled", "trial")

    def __init__(
        self, request: InferenceRequest, endpoint: Endpoint, cached_tokens: int, now: float, trial: int
    ) -> None:
        self.request = request
        self.endpoint = endpoint
        self.booked_at = now
        self.trial = trial
        self.settled = False
        self._load = load = endpoint.load
        prefill = request.prompt_tokens - cached_tokens
        self._prefill = prefill = prefill if prefill > 0 else 0
        self._decode = decode = request.expected_output_tokens
        load.requests += 1
        load.prefill_tokens += prefill
        load.decode_tokens += decode
        self._kv = kv = prefill + decode
        load.kv_tokens += kv
        load.recent_tokens += kv

    @property
    def outstanding_tokens(self) -> int:
        return self._prefill + self._decode

    @property
    def prefilling(self) -> bool:
        """Whether the prompt is still work ahead: the answer has not begun, and may yet."""
        return self._prefill > 0

    def prefill_done(self) -> None:
        """The answer has begun: the prompt is no longer work ahead. Safe to call again."""
        if self._prefill and not self.settled:
            self._load.prefill_tokens -= self._prefill
            self._prefill = 0

    def progress(self, tokens: int) -> None:
        """`tokens` more of the answer have come."""
        if self.settled:
            return
        done = min(tokens, self._decode - OVERRUN_TOKENS)
        if done > 0:
            self._load.decode_tokens -= done
            self._decode -= done


class Ledger:
    """Books and settles charges, and counts them: `open_charges` is 0 whenever nothing is in flight."""

    __slots__ = ("causes", "open_charges")

    def __init__(self) -> None:
        self.open_charges = 0
        self.causes: Counter[TerminationCause] = Counter()

    def book(
        self, request: InferenceRequest, endpoint: Endpoint, now: float, *, cached_tokens: int = 0, trial: int = 0
    ) -> Charge:
        """Book `request` on `endpoint`, less the prompt tokens that it is thought to hold in its prefix cache."""
        self.open_charges += 1
        return Charge(request, endpoint, cached_tokens, now, trial)

    def settle(self, charge: Charge, cause: TerminationCause) -> bool:
        """Take the charge off its endpoint. False, and no effect, if that was done before."""
        if charge.settled:
            return False
        charge.settled = True
        load: Load = charge._load
        load.requests -= 1
        load.prefill_tokens -= charge._prefill
        load.decode_tokens -= charge._decode
        load.kv_tokens -= charge._kv
        charge._prefill = charge._decode = 0
        self.open_charges -= 1
        self.causes[cause] += 1
        return True
