"""What a simulated engine is started with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmgate.engines.profile import EngineProfile
from llmgate.sim.http_engine.faults import Faults
from llmgate.sim.http_engine.lengths import DEFAULT, Lengths, parse_lengths
from llmgate.sim.http_engine.tokenizer import FourByteTokenizer, Tokenizer

VERSION = "0.32.0"  # of the vLLM that is looked like


@dataclass(frozen=True, slots=True)
class KvEventsConfig:
    """vLLM's `--kv-events-config`, with its defaults."""

    endpoint: str
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    topic: str = ""
    hwm: int = 100_000
    max_queue_size: int = 100_000

    def source(self) -> dict[str, Any]:
        """As /kv_event_sources shows it."""
        shown = asdict(self)
        order = ("endpoint", "replay_endpoint", "buffer_steps", "hwm", "max_queue_size", "topic")
        return {"enable_kv_cache_events": True, "publisher": "zmq", **{name: shown[name] for name in order}}


@dataclass(frozen=True, slots=True)
class Settings:
    """Names as vLLM's options have them where it has such."""

    profile: EngineProfile
    model: str
    speed: float = 1.0  # engine seconds a second
    tokenizer: Tokenizer = field(default_factory=FourByteTokenizer)
    lengths: Lengths = field(default_factory=lambda: parse_lengths(DEFAULT))
    seed: int = 0
    tick_s: float = 0.005  # tokens that are due go out at least this often
    startup_s: float = 0.0  # until it is ready, in seconds of the wall
    max_num_queued_reqs: int | None = None
    priority_queue: bool = False
    prompt_tokens_details: bool = False
    lora: dict[str, str] = field(default_factory=dict)  # name → path
    kv_events: KvEventsConfig | None = None
    faults: Faults = field(default_factory=Faults)


def fitted(
    profile: EngineProfile,
    *,
    block_size: int | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    num_gpu_blocks: int | None = None,
) -> EngineProfile:
    """The profile as those options of vLLM would change it.

    Like vLLM's own `--max-model-len auto`, the longest request is cut to what the KV cache holds if it is not given.
    Raises ValueError if it is given and does not fit.
    """
    block = block_size or profile.block_tokens
    kv_tokens = num_gpu_blocks * block if num_gpu_blocks else profile.kv_tokens // block * block
    if max_model_len is not None and max_model_len > kv_tokens:
        raise ValueError(
            f"--max-model-len {max_model_len} is more than the KV cache of {profile.name} holds: {kv_tokens} tokens"
        )
    return replace(
        profile,
        block_tokens=block,
        kv_tokens=kv_tokens,
        max_model_len=max_model_len or min(profile.max_model_len, kv_tokens),
        max_running=max_num_seqs or profile.max_running,
        max_batch_tokens=max_num_batched_tokens or profile.max_batch_tokens,
    )
