"""Constants of profiles that were measured, which come before those of the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONSTANTS: Mapping[str, Mapping[str, Any]] = {
    "rtx-pro-6000:llama-3.1-8b": {
        "step_s": 0.01177,
        "sequence_s": 5.037e-5,
        "kv_token_s": 7.669e-8,
        "prefill_token_s": 3.553e-5,
        "prefill_step_s": 0.002456,
        "prefill_kv_token_s": 2.177e-8,
    },
    "rtx-pro-6000:qwen3-30b-a3b": {
        "step_s": 0.02587,
        "sequence_s": 2.951e-5,
        "kv_token_s": 4.903e-8,
        "prefill_token_s": 1.896e-5,
        "prefill_step_s": 0.002969,
        "prefill_kv_token_s": 2.054e-8,
    },
}
"""Profile name → fields of EngineProfile. RTX PRO 6000: fitted by `python -m benchmarks.sim_validation` to the first
150 of 300 requests on real vLLM servers (github.com/casys-kaist/LLMServingSim at 5daddb2, MIT License)."""
