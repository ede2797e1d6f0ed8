"""Prior weights by GPU: how much LLM serving work one does in the time an A100-80GB does 1.0.

The four anchors are the project's own choice (B200 2.5, H100 1.6, A100-80GB 1.0, A100-40GB 0.7); the others are set
between them by memory bandwidth, which bounds decoding, against the A100-80GB's 2,039 GB/s (vendors' data sheets).
"""

from __future__ import annotations

import re

PRIORS = {
    "b200": 2.5,
    "h200": 2.0,
    "h100": 1.6,
    "a100-80gb": 1.0,
    "a100-40gb": 0.7,
    "l40s": 0.42,
    "a10": 0.29,
    "l4": 0.15,
}
ALIASES = {"a100": "a100-80gb"}


def prior_weight(gpu: str) -> float | None:
    """The weight of a GPU by its name as people write it ("NVIDIA H100 80GB HBM3", "A100-40GB"); None if unknown."""
    words = re.sub(r"[^a-z0-9]+", "-", gpu.lower())
    name = ALIASES.get(words, words)
    if name in PRIORS:
        return PRIORS[name]
    if re.search(r"\ba100\b", words):
        return PRIORS["a100-40gb" if "40gb" in words else "a100-80gb"]
    for known, weight in PRIORS.items():
        if re.search(rf"\b{known}\b", words):
            return weight
    return None
