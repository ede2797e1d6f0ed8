"""llmgate's own access log as a trace: the traffic of yesterday, replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from llmgate.core.prefix import COARSE_BLOCK, FINE_BLOCK, FINE_BLOCKS
from llmgate.workloads.lines import MAX_TOKENS, Lines, decoder
from llmgate.workloads.types import TraceRequest, Workload

BLOCK_TOKENS = 64
"""Tokens of the log's small blocks: 256 bytes at 4 bytes a token, as core/prefix.py has it."""

_COARSE = COARSE_BLOCK // FINE_BLOCK
_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class _Line(msgspec.Struct, gc=False):
    """What is read of a telemetry.access_log.Entry."""

    ts: Annotated[float, Meta(ge=0, le=1e12)]
    prompt_tokens: _Tokens | None
    completion_tokens: _Tokens | None
    model: str | None = None
    key_id: str | None = None
    session: str | None = None
    prefix: list[str] | None = None


def read(path: Path, *, seed: int, skip_bad: bool) -> Workload:
    """Open loop, at the recorded times from the first one on.

    Requests without token counts (refused, broken off, no usage) or without an answer in tokens (embeddings) are
    dropped and counted. Where the log has `prefix`, its hashes become blocks of 64 tokens, as many as whole ones fit
    the prompt. API keys become tenants. Models are named only if there are several, so that the log of one model can
    be replayed on another.
    """
    lines = Lines(path, skip_bad=skip_bad)
    taken: list[_Line] = []
    dropped: Counter[str] = Counter()
    for _, line in lines.read(decoder(_Line)):
        if line.prompt_tokens is None or line.completion_tokens is None:
            dropped["no token counts"] += 1
        elif not line.prompt_tokens or not line.completion_tokens:
            dropped["no prompt or no output tokens"] += 1
        else:
            taken.append(line)
    taken.sort(key=lambda line: line.ts)
    start = taken[0].ts if taken else 0.0
    named = len({line.model for line in taken}) > 1
    blocks = _Blocks()
    requests = [
        TraceRequest(
            line.ts - start,
            line.prompt_tokens or 0,
            line.completion_tokens or 0,
            blocks=blocks.of(line.prefix or (), line.prompt_tokens or 0),
            block_tokens=BLOCK_TOKENS,
            session=line.session,
            tenant=line.key_id,
            model=line.model if named else None,
        )
        for line in taken
    ]
    return Workload(path.name, requests, lines.dropped() | dropped)


class _Blocks:
    """Hashes of the log's blocks → chain ids of blocks of BLOCK_TOKENS."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}  # hash → the first chain id of its block
        self._next_id = 0

    def of(self, hashes: Iterable[str], prompt_tokens: int) -> tuple[int, ...]:
        """A large block is as many small ones, which are all equal or all not: less sharing than there was, if any."""
        ids: list[int] = []
        for place, key in enumerate(hashes):
            size = 1 if place < FINE_BLOCKS else _COARSE
            first = self._first.get(key)
            if first is None:
                first = self._first[key] = self._next_id
                self._next_id += size
            ids.extend(range(first, first + size))
        return tuple(ids[: prompt_tokens // BLOCK_TOKENS])
