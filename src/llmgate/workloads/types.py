"""The one form that every trace and every synthetic load is brought into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class TraceRequest:
    """One request of a workload.

    `blocks` are chain ids of whole blocks of `block_tokens` tokens each, of the prompt and, where a later request
    continues it, of the answer after it: equal ids mean equal blocks with equal beginnings, all through the workload.

    In an open loop a request arrives at `at`. In a closed loop (`after` is set) it arrives `think_s` after the end of
    the request with that index, and `at` says when it did so in the recording.
    """

    at: float  # seconds from the workload's start
    prompt_tokens: int  # at least 1
    output_tokens: int  # that will be produced, at least 1
    blocks: Sequence[int] = ()
    block_tokens: int = 16
    session: str | None = None
    tenant: str | None = None
    model: str | None = None  # None: the fleet's only one
    max_tokens: int | None = None  # what the client states; None: nothing
    priority: int = 0
    after: int | None = None  # index in Workload.requests, smaller than this one's
    think_s: float = 0.0


@dataclass(slots=True)
class Workload:
    """Requests in order of `at`, and what was left out of them on the way."""

    name: str
    requests: list[TraceRequest]
    dropped: dict[str, int] = field(default_factory=dict)  # reason in plain words → how many
