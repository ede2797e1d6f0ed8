"""GPUs and models, as far as the roofline (roofline.py) needs them.

GPUs: NVIDIA's data sheets as collected in github.com/ai-dynamo/aiconfigurator (src/aiconfigurator/systems/*.yaml at
095f58a, Apache License 2.0): dense bf16, links in one direction. Names are those of core/hardware.py. The H100 is the
SXM5 form, the A100s too, the RTX PRO 6000 the server edition; the A100-40GB's memory is from
github.com/cli99/llm-analysis (a100-sxm-40gb.json, Apache License 2.0).

Models: their config.json on Hugging Face; parameters as counted from the weights' index there (model cards).
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    bandwidth: float  # of memory, bytes/s
    flops: float  # dense bf16, 1/s
    memory: float  # bytes
    link: float  # to the other GPUs of the node, bytes/s in one direction


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    params: float  # all weights
    active: float  # weights that a token meets: fewer than all in a mixture of experts
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_len: int  # tokens
    tied: bool = False  # embedding and output layer are the same weights
    weight_bytes: float = 2.0  # of a parameter: bf16
    kv_bytes: float = 2.0  # of a number in the KV cache: bf16

    @property
    def kv_token_bytes(self) -> float:
        """Of one token: keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 1.555e12, 312e12, 40 * GIB, 300e9),
        Gpu("a100-80gb", 2.039e12, 312e12, 80 * GIB, 300e9),
        Gpu("h100", 3.35e12, 989e12, 80 * GIB, 450e9),
        Gpu("h100-pcie", 2.0e12, 756.5e12, 80 * GIB, 64e9),
        Gpu("h200", 4.8e12, 989e12, 141 * GIB, 450e9),
        Gpu("b200", 7.7e12, 2250e12, 180 * GIB, 900e9),
        Gpu("b300", 7.75e12, 2250e12, 268.6 * GIB, 900e9),
        Gpu("gb200", 8.0e12, 2500e12, 185.0 * GIB, 900e9),
        Gpu("l40s", 0.864e12, 362.05e12, 44.99 * GIB, 32e9),
        Gpu("l4", 0.3e12, 121e12, 24 * GIB, 32e9),
        Gpu("a30", 0.933e12, 165e12, 24 * GIB, 32e9),
        Gpu("rtx-pro-6000", 1.792e12, 467.8e12, 95.6 * GIB, 64e9),
    )
}
GPU_ALIASES = {"a100": "a100-80gb", "h100-80gb": "h100", "a100-80": "a100-80gb", "a100-40": "a100-40gb"}

MODELS = {
    model.name: model
    for model in (
        Model("llama-3.1-8b", 8.030e9, 8.030e9, 32, 4096, 32, 8, 128, 128_256, 131_072),
        Model("llama-3.1-70b", 70.554e9, 70.554e9, 80, 8192, 64, 8, 128, 128_256, 131_072),
        Model("qwen3-8b", 8.191e9, 8.191e9, 36, 4096, 32, 8, 128, 151_936, 40_960),
        Model("qwen3-32b", 32.762e9, 32.762e9, 64, 5120, 64, 8, 128, 151_936, 40_960),
        Model("qwen3-30b-a3b", 30.532e9, 3.345e9, 48, 2048, 32, 4, 128, 151_936, 40_960),
        Model("mixtral-8x7b", 46.703e9, 12.879e9, 32, 4096, 32, 8, 128, 32_000, 32_768),
        Model("llama-2-70b", 68.977e9, 68.977e9, 80, 8192, 64, 8, 128, 32_000, 4_096),
        Model("bloom-176b", 176.247e9, 176.247e9, 70, 14_336, 112, 112, 128, 250_880, 2_048, tied=True),
    )
}


def find_gpu(name: str) -> Gpu:
    """ValueError naming the nearest if it is not known."""
    plain = name.lower()
    gpu = GPUS.get(GPU_ALIASES.get(plain, plain))
    if gpu is None:
        raise ValueError(_unknown("GPU", name, [*GPUS, *GPU_ALIASES]))
    return gpu


def find_model(name: str) -> Model:
    """By its name here or as on Hugging Face (meta-llama/Llama-3.1-8B). ValueError naming the nearest."""
    plain = name.lower().rpartition("/")[2].removeprefix("meta-")
    model = MODELS.get(plain) or MODELS.get(plain.removesuffix("-instruct"))
    if model is None:
        raise ValueError(_unknown("model", name, list(MODELS)))
    return model


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}: {hint}"
