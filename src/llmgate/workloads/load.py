"""Trace files, whatever their format."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec

from llmgate.workloads import access_log, azure, claude_code, mooncake, plain
from llmgate.workloads.errors import BadLine, WorkloadError, unknown
from llmgate.workloads.lines import numbered, open_trace
from llmgate.workloads.options import Value, fitting, pairs, parameters
from llmgate.workloads.types import Workload

READERS: dict[str, Callable[..., Workload]] = {
    "access-log": access_log.read,
    "azure": azure.read,
    "claude-code": claude_code.read,
    "llmgate": plain.read,
    "mooncake": mooncake.read,
}

_LOOKED_AT = 100
"""Lines at the start of a file by which its format is told: with bad lines to be skipped, the first may be one."""


def load(
    path: str | os.PathLike[str], *, format: str | None = None, seed: int = 0, skip_bad: bool = False, **options: Value
) -> Workload:
    """A recorded trace, plain or gzip. Its format is detected from what it holds unless it is stated.

    `seed` decides where times are spread and sessions sampled. With `skip_bad`, lines that cannot be used are counted
    in `dropped`, by reason; else the first of them is an error. `options` are the reader's (`trace_options`).
    Raises WorkloadError: `FILE:LINE: reason` for a line.
    """
    file = Path(path)
    format = format or detected(file)
    if (reader := READERS.get(format)) is None:
        raise unknown("trace format", format, READERS)
    fitted = fitting(reader, options, what=f"a {format} trace")
    workload = reader(file, seed=seed, skip_bad=skip_bad, **fitted)
    if not workload.requests:
        dropped = "; ".join(f"{count} × {reason}" for reason, count in workload.dropped.items())
        raise WorkloadError(f"{file}: no request is left ({dropped})" if dropped else f"{file}: holds no requests")
    return workload


def load_text(text: str, *, seed: int = 0, skip_bad: bool = False) -> Workload:
    """As `load`, of `FILE` or `FILE:key=value,key=value` as on a command line; `format` is an option too."""
    path, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest or Path(text).exists():
        return load(text, seed=seed, skip_bad=skip_bad)
    given = pairs(rest, text)
    format = given.pop("format", None)
    return load(path, format=None if format is None else str(format), seed=seed, skip_bad=skip_bad, **given)


def formats() -> list[str]:
    """That can be read."""
    return sorted(READERS)


def trace_options(format: str) -> dict[str, Value]:
    """What the reader of a format takes, and the defaults. Raises WorkloadError on an unknown format."""
    if (reader := READERS.get(format)) is None:
        raise unknown("trace format", format, READERS)
    return parameters(reader)


def detected(path: Path) -> str:
    """The format of a file. Raises WorkloadError."""
    lines = 0
    try:
        with open_trace(path) as stream:
            for _, line in islice(numbered(stream), _LOOKED_AT):
                lines += 1
                if format := _format_of(line):
                    return format
    except BadLine as bad:
        raise WorkloadError(f"{path}: {bad}") from None
    if not lines:
        raise WorkloadError(f"{path}: holds no requests")
    raise WorkloadError(f"{path}: the format is not known: it may be one of {', '.join(formats())} (state it if it is)")


def _format_of(line: bytes) -> str | None:
    if line.removeprefix(b"\xef\xbb\xbf").upper().startswith(b"TIMESTAMP,"):
        return "azure"
    try:
        keys = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for format, telling in _TELLING.items():
        if telling <= keys:
            return format
    return None


_TELLING = {
    "mooncake": {"timestamp", "input_length"},
    "claude-code": {"block_size", "requests"},
    "access-log": {"ts", "request_id", "prompt_tokens"},
    "llmgate": {"at", "prompt_tokens"},
}
"""Keys by which a line of JSON is told."""
