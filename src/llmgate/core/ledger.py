"""Who owes what to whom: every attempt is booked on its endpoint's load and settled at most once, whatever happens.

This is the only file that writes to a Load.
"""

from __future__ import annotations

from collections import Counter

from llmgate.core.explain import Explanation
from llmgate.core.output import OutputPredictor
from llmgate.core.types import Endpoint, InferenceRequest, Load, TerminationCause

OVERRUN_TOKENS = 16
"""A request that has produced all it was expected to is still running: it stays booked with this many tokens."""

REVISE_TOKENS = 64
"""When so many tokens of an answer have come, what is still expected of it is revised, and after each quarter more."""


class Charge:
    """Tokens and one request, booked on one endpoint. It holds the Load itself: it survives the endpoint's removal."""

    __slots__ = (
        "_decode",
        "_kv",
        "_load",
        "_output",
        "_prefill",
        "_prefill_booked",
        "_produced",
        "_revise_at",
        "booked_at",
        "endpoint",
        "explanation",
        "prompt_tokens",
        "request",
        "settled",
        "trial",
    )

    def __init__(
        self,
        request: InferenceRequest,
        endpoint: Endpoint,
        cached_tokens: int,
        now: float,
        trial: int,
        output: OutputPredictor | None,
    ) -> None:
        self.request = request
        self.prompt_tokens = request.prompt_tokens  # the request's may be corrected meanwhile
        self.endpoint = endpoint
        self.booked_at = now
        self.trial = trial
        self.settled = False
        self.explanation: Explanation | None = None  # of the decision, if it has one
        self._load = load = endpoint.load
        prefill = request.prompt_tokens - cached_tokens
        self._prefill = self._prefill_booked = prefill = prefill if prefill > 0 else 0
        self._decode = decode = request.expected_output_tokens
        load.requests += 1
        load.prefill_tokens += prefill
        load.decode_tokens += decode
        load.context_tokens += request.prompt_tokens
        self._kv = kv = prefill + decode
        load.kv_tokens += kv
        load.recent_tokens += kv
        self._output = output
        self._produced = 0
        self._revise_at = REVISE_TOKENS

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
        self._produced = produced = self._produced + tokens
        if produced >= self._revise_at and self._output is not None:
            self._revise(self._output, produced)
            return
        done = min(tokens, self._decode - OVERRUN_TOKENS)
        if done > 0:
            self._load.decode_tokens -= done
            self._decode -= done

    def _revise(self, output: OutputPredictor, produced: int) -> None:
        """An answer that has become long is likely to become longer: book what answers as long as it had to come."""
        request = self.request
        expected = output.remaining(produced, request.max_tokens, request.prompt_tokens, request.tenant)
        left = max(round(expected), OVERRUN_TOKENS)
        room = self._prefill_booked + produced + left
        load = self._load
        load.decode_tokens += left - self._decode
        load.kv_tokens += room - self._kv
        self._decode, self._kv = left, room
        self._revise_at = produced + max(REVISE_TOKENS, produced // 4)


class Ledger:
    """Books and settles charges, and counts them: `open_charges` is 0 whenever nothing is in flight."""

    __slots__ = ("causes", "open_charges")

    def __init__(self) -> None:
        self.open_charges = 0
        self.causes: Counter[TerminationCause] = Counter()

    def book(
        self,
        request: InferenceRequest,
        endpoint: Endpoint,
        now: float,
        *,
        cached_tokens: int = 0,
        trial: int = 0,
        output: OutputPredictor | None = None,
    ) -> Charge:
        """Book `request` on `endpoint`, less the prompt tokens that it is thought to hold in its prefix cache. `output`
        says what is still to come of an answer that has begun; without it what was expected is counted down."""
        self.open_charges += 1
        return Charge(request, endpoint, cached_tokens, now, trial, output)

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
        load.context_tokens -= charge.prompt_tokens
        charge._prefill = charge._decode = 0
        self.open_charges -= 1
        self.causes[cause] += 1
        return True
