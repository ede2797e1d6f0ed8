"""Traces of Mooncake (github.com/kvcache-ai/Mooncake): one request a line with the chain ids of its prompt's blocks."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from llmgate.workloads.errors import BadLine
from llmgate.workloads.lines import MAX_TOKENS, Lines, decoder
from llmgate.workloads.options import check
from llmgate.workloads.types import TraceRequest, Workload

BLOCK_TOKENS = 512
"""Mooncake's README: "hash_ids" are of blocks of 512 tokens, each hash covering all before it too."""

TICK_SECONDS = 3.0
"""The released traces give arrivals in steps of 3 s: the 5,719 requests of conversation_first_half at 600 times."""

_Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]


class _Line(msgspec.Struct, gc=False):
    timestamp: Annotated[float, Meta(ge=0, le=1e12)]  # ms
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: list[Annotated[int, Meta(ge=0)]]


def read(
    path: Path, *, seed: int, skip_bad: bool, tick_s: float = TICK_SECONDS, block_tokens: int = BLOCK_TOKENS
) -> Workload:
    """Open loop. Requests of one tick are spread uniformly over `tick_s` seconds; 0 leaves them at the recorded times.

    The last hash of a prompt that is no multiple of `block_tokens` is of a partial block, which no engine caches: it
    goes.
    """
    check(tick_s >= 0, "tick_s", "must not be negative")
    check(block_tokens >= 1, "block_tokens", "must be at least 1")
    random = Random(f"{seed}:ticks")
    lines = Lines(path, skip_bad=skip_bad)
    requests = []
    for number, line in lines.read(decoder(_Line)):
        whole, partial = divmod(line.input_length, block_tokens)
        if len(line.hash_ids) != whole + (partial > 0):
            reason = f"hash_ids: not one for every {block_tokens} tokens of input_length"
            lines.bad(number, BadLine(reason, f"({len(line.hash_ids)} for {line.input_length})"))
            continue
        requests.append(
            TraceRequest(
                at=line.timestamp / 1000 + random.random() * tick_s,
                prompt_tokens=line.input_length,
                output_tokens=line.output_length,
                blocks=tuple(line.hash_ids[:whole]),
                block_tokens=block_tokens,
            )
        )
    requests.sort(key=lambda request: request.at)
    return Workload(path.name, requests, lines.dropped())
