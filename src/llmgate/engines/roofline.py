"""An engine's profile from what its GPUs and its model are on paper.

Decoding is bound by memory bandwidth: a step reads all weights once and each sequence's KV cache. Prefill is bound by
arithmetic: two operations for each weight that a token meets, and in attention two products of a query with each token
before it. The profile's step is the sum of both, where in truth the slower of them hides part of the other: a step that
computes a prompt is some milliseconds too slow by it. Weights of a mixture of experts count as read in full, which they
are from about 32 sequences on (8 of 128 experts each); alone, such a model is faster than this says.
docs/engine-model.md compares predictions with measurements.
"""

from __future__ import annotations

from llmgate.engines.catalogue import GIB, Gpu, Model, find_gpu, find_model
from llmgate.engines.profile import EngineProfile

BANDWIDTH_EFFICIENCY = 0.8
"""Of the data sheet's, reached by kernels: aiconfigurator's mem_bw_empirical_scaling_factor."""

FLOPS_EFFICIENCY = 0.6
"""Of the data sheet's, reached in the matrix products of long prompts: fits splitwise's llama2-70b on A100s."""

ATTENTION_EFFICIENCY = 0.4
"""The same in attention of long prompts. FlashAttention-2 reaches 0.5 to 0.7 on an A100 and less on GPUs after it (its
papers, arXiv 2307.08691 and 2407.08608). An assumption within what those say."""

STEP_OVERHEAD = 1.5e-3
"""s of launching and sampling a step with CUDA graphs and asynchronous scheduling. An assumption: with it, decoding on
the RTX PRO 6000 of docs/engine-model.md starts from 12.0 ms a step, and 11.8 ms were measured."""

SEQUENCE_OVERHEAD = 15e-6
"""s for each decoding sequence in a step, beside the products with the weights: sampling, the host's work for a token.
An assumption, of the size of what was measured there."""

ALL_REDUCE_LATENCY = 10e-6
"""s of one all-reduce of few bytes: aiconfigurator's p2p_latency."""

MEMORY_UTILIZATION = 0.92
"""Of the memory, that an engine takes: the default of vLLM 0.32."""

OTHER_MEMORY = 3.5 * GIB
"""Of each GPU, for activations, graphs and the driver: aiconfigurator's other_mem."""

LEAST_KV_TOKENS = 4096
"""With less room than this, a model does not fit."""

LOAD_BANDWIDTH = 2e9
"""bytes/s at which weights come from a local disk (an assumption), and STARTUP_S the rest of a start: processes,
compilation, graphs."""
STARTUP_S = 60.0


def profile(gpu: str, model: str, gpus: int = 1) -> EngineProfile:
    """One engine of `gpus` GPUs (tensor parallel) of this name. ValueError: an unknown name, with the nearest ones; a
    model that does not fit, with by how much."""
    return profile_of(find_gpu(gpu), find_model(model), gpus)


def profile_of(gpu: Gpu, model: Model, gpus: int = 1) -> EngineProfile:
    if gpus < 1 or model.heads % gpus:
        raise ValueError(f"{model.name} cannot be split over {gpus} GPUs: it has {model.heads} attention heads")
    embedding = model.vocabulary * model.hidden
    read = model.params - (0 if model.tied else embedding)  # an embedding is looked up, not read
    computed = model.active - embedding * (1 if model.tied else 2)  # only a prompt's last token is given to the output
    kv_share = max(model.kv_heads / gpus, 1) / model.kv_heads  # of a token's KV, that one GPU holds
    bandwidth = gpu.bandwidth * BANDWIDTH_EFFICIENCY
    token_s = 2 * computed / (gpu.flops * FLOPS_EFFICIENCY * gpus) + _all_reduce_token_s(gpu, model, gpus)
    kv_tokens = _kv_tokens(gpu, model, gpus, kv_share)
    budget, running = _batch_defaults(gpu)
    weights = model.params * model.weight_bytes
    return EngineProfile(
        name=f"{gpus}x{gpu.name}:{model.name}" if gpus > 1 else f"{gpu.name}:{model.name}",
        model=model.name,
        step_s=STEP_OVERHEAD + read * model.weight_bytes / (bandwidth * gpus) + _all_reduce_step_s(model, gpus),
        sequence_s=SEQUENCE_OVERHEAD + token_s,
        kv_token_s=model.kv_token_bytes * kv_share / bandwidth,
        prefill_token_s=token_s,
        prefill_pair_s=4 * model.layers * model.heads * model.head_dim / (gpu.flops * ATTENTION_EFFICIENCY * gpus),
        kv_tokens=kv_tokens,
        gpu=gpu.name,
        gpus=gpus,
        max_batch_tokens=budget,
        max_running=running,
        max_model_len=min(model.max_len, kv_tokens),
        async_scheduling=True,
        startup_s=STARTUP_S + weights / LOAD_BANDWIDTH,
    )


def _all_reduce_step_s(model: Model, gpus: int) -> float:
    """Two a layer, after attention and after the feed-forward part."""
    return 2 * model.layers * ALL_REDUCE_LATENCY if gpus > 1 else 0.0


def _all_reduce_token_s(gpu: Gpu, model: Model, gpus: int) -> float:
    """A ring sends 2 (n − 1) / n of the data over each link; bf16."""
    return 2 * model.layers * model.hidden * 2 * (2 * (gpus - 1) / gpus) / gpu.link


def _kv_tokens(gpu: Gpu, model: Model, gpus: int, kv_share: float) -> int:
    """What is left of the memory, in tokens, as whole blocks of 16."""
    weights = model.params * model.weight_bytes / gpus
    token = model.kv_token_bytes * kv_share
    room = gpu.memory * MEMORY_UTILIZATION - OTHER_MEMORY - weights
    short = LEAST_KV_TOKENS * token - room
    if short > 0:
        raise ValueError(
            f"{model.name} does not fit on {gpus} x {gpu.name}: {short * gpus / 1e9:.1f} GB short "
            f"({weights * gpus / 1e9:.0f} GB of weights); give it more or larger GPUs"
        )
    return int(room / token) // 16 * 16


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """(tokens in a step, running sequences): vLLM 0.32's defaults for its server (get_batch_defaults in
    vllm/engine/arg_utils.py)."""
    if gpu.memory >= 160 * GIB:
        return 16_384, 1024
    if gpu.memory >= 70 * GIB and not gpu.name.startswith("a100"):
        return 8192, 1024
    return 2048, 256
