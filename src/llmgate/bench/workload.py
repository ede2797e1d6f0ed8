"""The requests of a run."""

from __future__ import annotations

from dataclasses import replace

from llmgate.bench.errors import BenchError
from llmgate.workloads import (
    TraceRequest,
    Workload,
    WorkloadError,
    first,
    load_text,
    parse,
    synthetic,
)


def plain(requests: int, prompt_tokens: int, output_tokens: int) -> Workload:
    """Equal requests that share no beginning."""
    name = f"{prompt_tokens} prompt tokens, {output_tokens} output tokens"
    return Workload(name, [TraceRequest(0.0, prompt_tokens, output_tokens) for _ in range(requests)])


def from_trace(text: str, *, seed: int, skip_bad: bool) -> Workload:
    """A file, with options for its reader after a colon. Raises BenchError."""
    try:
        return load_text(text, seed=seed, skip_bad=skip_bad)
    except WorkloadError as error:
        raise BenchError(str(error)) from None


def from_name(text: str, *, seed: int, requests: int | None) -> Workload:
    """A synthetic workload; `requests` stands for an option of that name that is not given. Raises BenchError."""
    try:
        name, options = parse(text)
        if requests is not None:
            options.setdefault("requests", requests)
        return replace(synthetic(name, seed=seed, **options), name=text)
    except WorkloadError as error:
        raise BenchError(str(error)) from None


def bounded(workload: Workload, requests: int | None, output_tokens: int | None) -> Workload:
    """At most so many requests, of at most so many output tokens each."""
    if requests is not None:
        workload = first(workload, requests)
    if output_tokens is None:
        return workload
    shorter = [replace(each, output_tokens=min(each.output_tokens, output_tokens)) for each in workload.requests]
    return replace(workload, requests=shorter)
