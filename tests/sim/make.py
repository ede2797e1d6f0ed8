"""Small fleets and workloads for tests of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmgate.engines.profile import EngineProfile
from llmgate.engines.spec import EngineSpec
from llmgate.workloads.types import TraceRequest, Workload

PROFILE = EngineProfile(
    name="h100:m",
    model="m",
    step_s=0.01,
    sequence_s=0.0001,
    kv_token_s=1e-8,
    prefill_token_s=1e-4,
    prefill_pair_s=0.0,
    kv_tokens=100_000,
    gpu="h100",
    max_batch_tokens=2048,
    startup_s=20.0,
)


def fleet(count: int = 2, **changes: object) -> list[EngineSpec]:
    """Engines e0, e1 …"""
    profile = replace(PROFILE, **changes)  # type: ignore[arg-type]
    return [EngineSpec(f"e{i}", profile) for i in range(count)]


def request(at: float = 0.0, prompt: int = 1000, output: int = 10, **more: object) -> TraceRequest:
    return TraceRequest(at, prompt, output, **more)  # type: ignore[arg-type]


def workload(*requests: TraceRequest) -> Workload:
    return Workload("test", list(requests))


def conversations(count: int, turns: int = 4, *, gap: float = 1.0, blocks: int = 10) -> Workload:
    """Open loop: each turn comes `gap` seconds after the one before, and begins with all of it."""
    made = [
        request(
            0.1 * which + gap * turn,
            prompt=16 * blocks * (turn + 1) + 3,
            output=20,
            blocks=tuple(range(which * 1000, which * 1000 + blocks * (turn + 1))),
            session=f"s{which}",
        )
        for which in range(count)
        for turn in range(turns)
    ]
    return workload(*sorted(made, key=lambda each: each.at))


def steady(count: int, every: float, *, prompt: int = 1000, output: int = 10) -> Workload:
    return workload(*(request(n * every, prompt, output) for n in range(count)))


def names(specs: Sequence[EngineSpec]) -> list[str]:
    return [spec.name for spec in specs]
