"""A request inside an engine."""

from __future__ import annotations

import enum
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from llmgate.engines.request import EngineRequest


class State(enum.IntEnum):
    WAITING = 0
    PREFILL = 1
    DECODE = 2
    ENDED = 3


@dataclass(slots=True, eq=False)
class Sequence:
    """What an engine knows of a request that is open."""

    request: EngineRequest
    order: int  # of arrival
    ids: Ids[int]  # chain ids of blocks of `block_tokens` tokens, of the prompt and beyond
    block_tokens: int
    cost: int  # blocks of the engine that one of them takes
    target: (
        int  # tokens to be computed before the next one can be sampled: the prompt, and after a preemption the answer
    )
    ready: int = 0  # how many steps the engine must have run to admit it, if it is busy
    state: State = State.WAITING
    cached: int | None = None  # prompt tokens found in the cache when it was first scheduled
    computed: int = 0  # tokens whose keys and values are in the cache; while it decodes, as of joining
    generated: int = 0  # answer tokens; while it decodes, as of joining
    joined: int = 0  # the decode batch's step then
    finish: int = 0  # the step that produces its last token
    held: list[int] = field(default_factory=list)  # entries of the cache that it holds
    named: int = 0  # of `ids`: those that it found or filled
    aborted: bool = False  # to be let go when the running step ends

    @property
    def key(self) -> tuple[int, int]:
        return (self.request.priority, self.order)


def open_sequence(request: EngineRequest, order: int, engine_block: int) -> Sequence:
    """A request's blocks by the engine's measure. Blocks smaller than the engine's are put together: an id names all
    that comes before it too, so the last of each group names the group. ValueError if neither size divides the other.
    """
    size, ids = request.block_tokens, request.blocks
    if request.prompt_tokens < 1 or request.output_tokens < 1:
        raise ValueError(f"request {request.id}: prompt_tokens and output_tokens must be at least 1")
    if ids and size < engine_block:
        if engine_block % size:
            raise ValueError(
                f"blocks of {size} tokens do not make whole blocks of {engine_block}: request {request.id}"
            )
        ids = ids[engine_block // size - 1 :: engine_block // size]
        size = engine_block
    elif not ids:
        size = engine_block
    elif size % engine_block:
        raise ValueError(f"blocks of {size} tokens are not whole blocks of {engine_block}: request {request.id}")
    return Sequence(request, order, ids, size, size // engine_block, request.prompt_tokens)
