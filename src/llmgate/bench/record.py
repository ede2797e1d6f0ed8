"""What is known of one request that was sent."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

ABORTED = "aborted"  # by us, at an early end: no error of the server's


@dataclass(slots=True, eq=False)
class Record:
    """Times are seconds of the run's clock, 0 at its start.

    `arrivals` has one time for each event with content, that of the read that brought its end: events of one read came
    at the same time. Latencies count from `intended`, not from `sent`: a generator that falls behind would otherwise
    leave out just the waits that a slow server causes (coordinated omission).
    """

    index: int  # in the workload
    intended: float
    asked_prompt_tokens: int = 0
    warmup: bool = False
    sent: float = 0.0
    ended: float = 0.0
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    streamed: bool = True
    prompt_tokens: int | None = None  # None: the server did not say
    cached_tokens: int | None = None
    output_tokens: int = 0
    counted: bool = False  # output tokens are the number of events with content, for want of usage
    error: str | None = None  # its kind
    message: str = ""  # of the error

    @property
    def good(self) -> bool:
        return self.error is None

    @property
    def lag(self) -> float:
        """How late the generator itself was."""
        return self.sent - self.intended

    @property
    def e2e(self) -> float:
        """To the end of the answer."""
        return self.ended - self.intended

    @property
    def ttft(self) -> float | None:
        """To the first event with content; None if the answer is not streamed."""
        return self.arrivals[0] - self.intended if self.streamed and self.arrivals else None

    @property
    def tpot(self) -> float | None:
        """(E2E - TTFT) / (output tokens - 1); None for fewer than two tokens."""
        if not self.streamed or not self.arrivals or self.output_tokens < 2:
            return None
        return (self.ended - self.arrivals[0]) / (self.output_tokens - 1)

    def as_row(self) -> dict[str, Any]:
        """For a line of JSON: seconds and counts, no text of prompt or answer."""
        return {
            "index": self.index,
            "warmup": self.warmup,
            "intended": self.intended,
            "sent": self.sent,
            "ended": self.ended,
            "ttft": self.ttft,
            "tpot": self.tpot,
            "e2e": self.e2e,
            "events": len(self.arrivals),
            "asked_prompt_tokens": self.asked_prompt_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "counted": self.counted,
            "error": self.error,
            "message": self.message,
        }
