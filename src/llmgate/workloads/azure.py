"""Azure's traces of LLM inference (github.com/Azure/AzurePublicDataset, CC-BY-4.0): times and lengths, no content."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from llmgate.workloads.errors import BadLine
from llmgate.workloads.lines import MAX_TOKENS, Lines
from llmgate.workloads.types import TraceRequest, Workload

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BOM = "\ufeff"


def read(path: Path, *, seed: int, skip_bad: bool) -> Workload:
    """Open loop, at the recorded times from the first one on. Nothing is known of prefixes or sessions."""
    lines = Lines(path, skip_bad=skip_bad)
    rows = [row for _, row in lines.read(_row) if row is not None]
    rows.sort(key=lambda row: row[0])
    start = rows[0][0] if rows else datetime.min
    requests = [TraceRequest((at - start).total_seconds(), prompt, output) for at, prompt, output in rows]
    return Workload(path.name, requests, lines.dropped())


def _row(line: bytes) -> tuple[datetime, int, int] | None:
    """(time, prompt tokens, output tokens); None for a header. Raises BadLine.

    Fields are split at commas: the format has no quotes.
    """
    try:
        fields = line.decode().removeprefix(_BOM).split(",")
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    if len(fields) != len(HEADER):
        raise BadLine(f"not {len(HEADER)} fields ({', '.join(HEADER)})", f"but {len(fields)}")
    if tuple(field.strip().lower() for field in fields) == tuple(name.lower() for name in HEADER):
        return None
    stamp, prompt, output = fields
    return _time(stamp), _tokens(HEADER[1], prompt), _tokens(HEADER[2], output)


def _time(text: str) -> datetime:
    """`2023-11-16 18:15:46.6805900`, with an offset or in UTC."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadLine(f"{HEADER[0]}: not a date and time", repr(text[:40])) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _tokens(name: str, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= MAX_TOKENS):
        raise BadLine(f"{name}: not a whole number from 1 to {MAX_TOKENS}", repr(text[:40]))
    return int(text)
