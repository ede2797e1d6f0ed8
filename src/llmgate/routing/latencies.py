"""How fast each endpoint has answered lately."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf

from llmgate.core.types import Endpoint, InferenceRequest, Usage

PROMPT_TOKEN = 0.01
"""Time that a prompt token takes, in output tokens. On one GPU a prompt token takes around 0.1 ms (8,000 a second),
an output token around 10 ms: a step of a batch."""


class Latencies:
    """Response time per output token: a mean over answers, old ones fading with `time_constant` seconds.

    It is the sum of times over the sum of work, both fading alike, and not a mean of quotients: a few short answers do
    not outweigh a long one. Work is output tokens plus a hundredth of the prompt's, so that an endpoint that happened
    to get long requests does not look slow.
    """

    __slots__ = ("_seen", "_time_constant")

    def __init__(self, time_constant: float) -> None:
        self._time_constant = time_constant
        self._seen: dict[Endpoint, tuple[float, float, float]] = {}  # (seconds, work, time of the last answer)

    def note(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        """A whole answer has come, after `seconds`."""
        if usage is None:
            output, prompt = request.expected_output_tokens, request.prompt_tokens
        else:
            output, prompt = usage.completion_tokens, usage.prompt_tokens or request.prompt_tokens
        time, work, at = self._seen.get(endpoint, (0.0, 0.0, now))
        fade = exp(-max(now - at, 0.0) / self._time_constant)
        self._seen[endpoint] = (time * fade + seconds, work * fade + max(output + prompt * PROMPT_TOKEN, 1.0), now)

    def mean(self, endpoint: Endpoint) -> float | None:
        """Seconds for each output token; None if it has not answered yet."""
        seen = self._seen.get(endpoint)
        return None if seen is None else seen[0] / seen[1]

    def means(self, endpoints: Sequence[Endpoint]) -> list[float]:
        """That of each of `endpoints`; for one that has not answered yet, the mean of the others, or 1."""
        means = [self.mean(endpoint) for endpoint in endpoints]
        known = [mean for mean in means if mean is not None]
        usual = sum(known) / len(known) if known else 1.0
        return [usual if mean is None else mean for mean in means]

    def answered_at(self, endpoint: Endpoint) -> float:
        """When the last answer came; -inf if none did."""
        seen = self._seen.get(endpoint)
        return -inf if seen is None else seen[2]

    def forget(self, endpoint: Endpoint) -> None:
        self._seen.pop(endpoint, None)
