"""What became of every request, in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RequestTable:
    """One row a request of the workload, in its order. Seconds from the start; NaN where it never came to that."""

    arrived: Floats  # NaN: never sent, as the run was given up before
    first_token: Floats
    ended: Floats  # also of those that failed
    prompt_tokens: Ints
    output_tokens: Ints
    cached_tokens: Ints  # found in the engine's cache
    engine: Ints  # index in PolicyRun.engines of the last one tried; -1: none
    attempts: Ints
    ok: NDArray[np.bool_]  # the whole answer came

    def __len__(self) -> int:
        return len(self.arrived)

    @property
    def ttft(self) -> Floats:
        """Seconds from arrival to first token, of completed requests."""
        return (self.first_token - self.arrived)[self.ok]

    @property
    def tpot(self) -> Floats:
        """Seconds per token after the first, of completed requests with more than one."""
        several = self.ok & (self.output_tokens > 1)
        times: Floats = (self.ended - self.first_token)[several] / (self.output_tokens[several] - 1)
        return times

    @property
    def e2e(self) -> Floats:
        """Seconds from arrival to the last token, of completed requests."""
        return (self.ended - self.arrived)[self.ok]


class Recorder:
    """Takes down what happens. Lists, since an array's element costs more to write."""

    def __init__(self, prompt_tokens: list[int], output_tokens: list[int]) -> None:
        count = len(prompt_tokens)
        nan = float("nan")
        self.prompt_tokens, self.output_tokens = prompt_tokens, output_tokens
        self.arrived = [nan] * count
        self.first_token = [nan] * count
        self.ended = [nan] * count
        self.cached = [0] * count
        self.engine = [-1] * count
        self.attempts = [0] * count
        self.ok = [False] * count

    def table(self) -> RequestTable:
        def ints(values: Any) -> Ints:
            return np.asarray(values, dtype=np.int64)

        return RequestTable(
            np.asarray(self.arrived),
            np.asarray(self.first_token),
            np.asarray(self.ended),
            ints(self.prompt_tokens),
            ints(self.output_tokens),
            ints(self.cached),
            ints(self.engine),
            ints(self.attempts),
            np.asarray(self.ok, dtype=np.bool_),
        )
