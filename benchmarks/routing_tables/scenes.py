"""The workloads and the engines that policies are compared on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from llmgate.engines.spec import EngineSpec, parse_specs
from llmgate.workloads import Workload, first, load, synthetic

DATA = Path(__file__).parents[1] / "data"
CONTEXT = 131_072  # tokens, of Llama 3.1


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    title: str
    engines: str
    workload: Callable[[int], Workload]  # of a seed, at its own rate

    def fleet(self) -> list[EngineSpec]:
        return parse_specs(self.engines)


def _mooncake(seed: int) -> Workload:
    """The seed spreads the arrivals within their ticks of three seconds."""
    return load(DATA / "mooncake_conversation_first_half.jsonl.gz", seed=seed)


def _claude_code(seed: int) -> Workload:
    """The first 1,200 requests of 80 sessions in a closed loop; the seed draws when the sessions begin."""
    return first(load(DATA / "claude_code_100_sessions.jsonl.gz", seed=seed, max_model_len=CONTEXT), 1200)


def _multi_turn(seed: int) -> Workload:
    """Long system prompts that many conversations share, and long questions, as with retrieved documents."""
    return synthetic(
        "multi-turn",
        seed=seed,
        requests=1500,
        rate=0.6,
        turns=3,
        think_s=10.0,
        prompts=8,
        system_tokens=4096,
        user_tokens=6000,
        output_tokens=250,
        max_context=65_536,
    )


SCENES: Mapping[str, Scene] = {
    scene.name: scene
    for scene in (
        Scene("mooncake", "Mooncake conversations, 8 × (4 × H100), Llama 3.1 70B", "8x4h100:llama-3.1-70b", _mooncake),
        Scene(
            "claude-code", "Claude Code sessions, 8 × (4 × H100), Llama 3.1 70B", "8x4h100:llama-3.1-70b", _claude_code
        ),
        Scene(
            "multi-turn",
            "Conversations under 8 shared system prompts, 4 × H100 and 6 × A100, Llama 3.1 8B",
            "4xh100:llama-3.1-8b,6xa100:llama-3.1-8b",
            _multi_turn,
        ),
    )
}


@lru_cache(maxsize=2)
def workload(scene: str, seed: int) -> Workload:
    return SCENES[scene].workload(seed)
