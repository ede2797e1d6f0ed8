"""The requests of a run."""

from __future__ import annotations

from llmgate.workloads.types import TraceRequest, Workload


def plain(requests: int, prompt_tokens: int, output_tokens: int) -> Workload:
    """Equal requests that share no beginning."""
    name = f"{prompt_tokens} prompt tokens, {output_tokens} output tokens"
    return Workload(name, [TraceRequest(0.0, prompt_tokens, output_tokens) for _ in range(requests)])
