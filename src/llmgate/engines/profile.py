"""What an engine can do, as numbers: everything that the engine model (engine.py) needs of hardware and model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine: a model on one or more GPUs. Where the numbers come from is roofline.py's and measured.py's matter.

    One step of the engine computes `p` prompt tokens (whose queries meet `q` pairs of query and earlier token) and one
    token for each of `n` decoding sequences, which read `k` tokens of KV cache in all; it takes

        step_s + sequence_s * n + kv_token_s * k + prefill_token_s * p + prefill_pair_s * q   seconds,

    and, if p is not 0, `prefill_step_s + prefill_kv_token_s * k` more: such steps run without the graphs and the
    attention kernels that are made for decoding.
    """

    name: str  # h100:llama-3.1-8b, 4xh100:llama-3.1-70b
    model: str
    step_s: float  # launching, sampling, and reading the weights once
    sequence_s: float  # a decoding sequence
    kv_token_s: float  # a token of KV cache read while decoding
    prefill_token_s: float  # a prompt token computed
    prefill_pair_s: float  # a query and a token before it: the quadratic part of attention
    kv_tokens: int  # size of the KV cache
    gpu: str = ""  # as core/hardware.py knows it
    gpus: int = 1
    block_tokens: int = 16  # tokens of one KV block: vLLM's default on GPUs
    max_batch_tokens: int = 8192  # a step's budget of prompt and decode tokens together (chunked prefill)
    max_running: int = 256  # sequences at once
    max_model_len: int = 131_072  # prompt and answer together
    startup_s: float = 120.0  # from start to ready, loading the weights
    async_scheduling: bool = False  # composed while the step before runs: vLLM 0.32's default on GPUs
    prefill_step_s: float = 0.0  # what a step that computes a prompt takes longer for that
    prefill_kv_token_s: float = 0.0  # what a token of KV cache read while decoding takes longer in such a step
