"""What the engine model takes in and gives out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One request as an engine sees it.

    `blocks` are chain ids of whole blocks of `block_tokens` tokens each, of the prompt and, as far as it is known, of
    the answer after it: equal ids mean equal blocks with equal beginnings. What they do not cover is nobody else's.
    """

    id: int
    prompt_tokens: int  # at least 1
    output_tokens: int  # that it will produce, at least 1
    blocks: Sequence[int] = ()
    block_tokens: int = 16
    priority: int = 0  # lower is earlier, where the engine's queue is by priority


class EventKind(enum.Enum):
    FIRST_TOKEN = "first_token"
    FINISHED = "finished"
    PREEMPTED = "preempted"
    REJECTED = "rejected"  # it can never fit


class EngineEvent(NamedTuple):
    """Something that became of a request, at the exact time (seconds) when the step that did it ended."""

    at: float
    kind: EventKind
    request: EngineRequest
    cached_tokens: int  # prompt tokens found in the prefix cache when it was first scheduled


class CacheEvent(NamedTuple):
    """What the prefix cache took in or dropped, as an engine that publishes KV events tells it."""

    at: float
    stored: Sequence[int]  # chain ids, in the order of the chain
    removed: Sequence[int]


class Gauges(NamedTuple):
    """What an engine's metrics page says. The counters only grow."""

    running: int
    waiting: int
    kv_usage: float  # 0..1: blocks held by running requests; blocks that are only cached count as free, as in vLLM
    preemptions: int
    prefix_queries: int  # tokens
    prefix_hits: int  # tokens
    prompt_tokens: int  # of requests that began to answer
    generated_tokens: int
