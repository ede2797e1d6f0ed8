"""The cached part of prompts lately."""

from __future__ import annotations

from math import exp, inf

SECONDS = 300.0
"""Time constant: what ended five minutes ago counts for a third."""


class PrefixHits:
    """Cached tokens and prompt tokens as engines report them, fading. Times are seconds of one monotonic clock."""

    __slots__ = ("_at", "_cached", "_prompt")

    def __init__(self) -> None:
        self._cached = self._prompt = 0.0
        self._at = -inf

    def observe(self, cached: int, prompt: int, now: float) -> None:
        if now > self._at:
            left = exp((self._at - now) / SECONDS)
            self._cached *= left
            self._prompt *= left
            self._at = now
        self._cached += cached
        self._prompt += prompt

    @property
    def ratio(self) -> float | None:
        """None before the first prompt."""
        return self._cached / self._prompt if self._prompt else None
