"""llmgate's own form of a workload: one request a line of JSON, fields as in TraceRequest, defaults left out.

    {"at": 0.0, "prompt_tokens": 1200, "output_tokens": 80, "blocks": [0, 1, 2], "session": "a"}
    {"at": 4.5, "prompt_tokens": 1400, "output_tokens": 95, "session": "a", "after": 1, "think_s": 2.0}

`after` is the number of a line above, the first of the file being 1.
"""

from __future__ import annotations

import gzip
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from llmgate.workloads.edits import ordered
from llmgate.workloads.errors import BadLine, WorkloadError
from llmgate.workloads.lines import MAX_TOKENS, Lines, decoder
from llmgate.workloads.types import TraceRequest, Workload

_Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
_Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class _Line(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    at: _Seconds
    prompt_tokens: _Tokens
    output_tokens: _Tokens
    blocks: list[Annotated[int, Meta(ge=0)]] = []
    block_tokens: _Tokens = 16
    session: str | None = None
    tenant: str | None = None
    model: str | None = None
    max_tokens: _Tokens | None = None
    priority: int = 0
    after: Annotated[int, Meta(ge=1)] | None = None
    think_s: _Seconds = 0.0


def read(path: Path, *, seed: int, skip_bad: bool) -> Workload:
    """As it was saved. What waited on a line that was skipped arrives at its own `at`."""
    lines = Lines(path, skip_bad=skip_bad)
    places: dict[int, int] = {}  # line number → place in `requests`
    requests: list[TraceRequest] = []
    for number, line in lines.read(decoder(_Line)):
        place = None if line.after is None else places.get(line.after)
        if mistake := _mistake(line, number, requests[place].at if place is not None else None):
            lines.bad(number, BadLine(mistake))
            continue
        places[number] = len(requests)
        fields = msgspec.structs.asdict(line)
        fields |= {"blocks": tuple(line.blocks), "after": place, "think_s": 0.0 if place is None else line.think_s}
        requests.append(TraceRequest(**fields))
    return Workload(path.name, ordered(requests), lines.dropped())


def save(workload: Workload, path: str | os.PathLike[str]) -> None:
    """Write a file that `load` reads; packed if its name ends in `.gz`. Raises WorkloadError if it cannot be written.

    Blocks are written out in full: long closed-loop sessions that share them in memory make large files.
    """
    file = Path(path)
    encoder = msgspec.json.Encoder()
    try:
        with file.open("wb") as raw:
            packed = file.suffix == ".gz"
            # No name and no time in the header: the same workload is the same file.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else nullcontext(raw) as stream:
                for request in workload.requests:
                    stream.write(encoder.encode(_line(request)) + b"\n")
    except OSError as error:
        raise WorkloadError(f"{file}: cannot be written: {error.strerror or error}") from error


def _line(request: TraceRequest) -> _Line:
    fields = {field: getattr(request, field) for field in _Line.__struct_fields__}
    after = None if request.after is None else request.after + 1
    return _Line(**fields | {"blocks": list(request.blocks), "after": after})


def _mistake(line: _Line, number: int, before: float | None) -> str | None:
    if len(line.blocks) * line.block_tokens > line.prompt_tokens + line.output_tokens:
        return "blocks: more than prompt and output have tokens for"
    if line.after is not None and line.after >= number:
        return "after: not a line before this one"
    if before is not None and line.at < before:
        return "at: before that of the request it comes after"
    return None
