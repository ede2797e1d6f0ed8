"""What a run measured, as data: the file that `--json` writes and `--compare` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from llmgate.bench.errors import BenchError
from llmgate.bench.histogram import Stats

SCHEMA = "llmgate.bench/1"


class Throughput(msgspec.Struct, frozen=True):
    """Per second, of the answers that were whole, over the measured time."""

    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float


class Goodput(msgspec.Struct, frozen=True):
    """Requests that kept every bound; those that failed kept none."""

    slo: dict[str, float]  # seconds
    ratio: float  # of the measured requests
    requests_per_s: float


class Tokens(msgspec.Struct, frozen=True):
    prompt: int  # as the server reports them, else as asked for
    output: int
    cached: int | None  # None: the server does not tell
    prompt_ratio: float | None  # reported over asked-for prompt tokens
    counted_by: dict[str, int]  # requests whose output tokens come from "usage", from "events"
    per_event: float | None  # output tokens for each event with content


class Generator(msgspec.Struct, frozen=True):
    """How the load generator itself did."""

    lag: Stats | None  # s, sent − intended
    cpu_ratio: float  # of one core, over the whole run; an open loop also spends it on waiting exactly
    cpu_us_per_request: float


class Interval(msgspec.Struct, frozen=True):
    """`begin` in seconds of the run."""

    begin: float
    requests: int  # ended well
    errors: int
    output_tokens: float  # spread over an answer's events


class Result(msgspec.Struct, kw_only=True, frozen=True):
    """Times in seconds. Requests of the warm-up and those cut off by an early end are in no figure but their own."""

    schema: str = SCHEMA
    version: str  # llmgate's
    parameters: dict[str, Any]
    model: str
    requests: int  # measured: succeeded + failed
    succeeded: int
    failed: int
    warmup: int
    aborted: int
    ended_early: bool
    duration_s: float  # from the first measured request's intended time to the last one's end
    errors: dict[str, int]
    error_examples: dict[str, str]
    throughput: Throughput
    ttft: Stats | None
    itl: Stats | None
    tpot: Stats | None
    e2e: Stats | None
    goodput: Goodput | None
    tokens: Tokens
    generator: Generator
    interval_s: float
    timeline: list[Interval]
    histograms: dict[str, str]  # HdrHistogram V2 compressed, microseconds
    warnings: list[str]


def read_result(path: Path) -> Result:
    """Raises BenchError."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is no result of llmgate bench --json: {error}") from None
    if result.schema != SCHEMA:
        raise BenchError(f"{path} has the schema {result.schema}, this llmgate reads {SCHEMA}: measure again")
    return result


def encode(value: object) -> bytes:
    """As indented JSON with a line end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
