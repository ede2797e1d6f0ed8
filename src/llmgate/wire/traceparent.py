"""Which trace a request belongs to, by the headers of W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmgate.wire.headers import Header

TRACEPARENT = b"traceparent"
TRACE = (TRACEPARENT, b"tracestate")
SAMPLED = 1
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """What a client's `traceparent` says."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(values: Sequence[bytes]) -> Parent | None:
    """Of all headers of that name. None for none, for several, and for what W3C Trace Context level 1 (section 3.2)
    does not allow."""
    if len(values) != 1 or (match := _TRACEPARENT.fullmatch(values[0].strip())) is None:
        return None
    version, trace, span, flags, more = match.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == b"ff" or (version == b"00" and more) or not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & SAMPLED))


def without_trace(headers: Iterable[Header]) -> list[Header]:
    """The headers without those of a trace."""
    return [each for each in headers if each[0] not in TRACE]


def with_traceparent(headers: Iterable[Header], traceparent: bytes) -> list[Header]:
    """The headers with this one in place of that of the same trace which they may have."""
    return [*(each for each in headers if each[0] != TRACEPARENT), (TRACEPARENT, traceparent)]
