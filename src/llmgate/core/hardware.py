"""Prior weights by GPU: how much LLM serving work one does in the time an A100-80GB does 1.0.

The five anchors are the project's own choice. The others lie between them by memory bandwidth, which bounds decoding:
on the lines through (0, 0), the A100-80GB (2,039 GB/s: 1.0), the H100 (3,350 GB/s: 1.6) and the B200 (8,000 GB/s: 2.5).
Bandwidths are the vendors' data sheets'; of GPUs with one name in several forms it is the fastest form's.

They are priors, good for a start: a measured weight is better, and engines differ in what they make of a GPU.
"""

from __future__ import annotations

import re
from itertools import pairwise

ANCHORS = {"b200": 2.5, "h200": 2.0, "h100": 1.6, "a100-80gb": 1.0, "a100-40gb": 0.7}

BANDWIDTH = {  # GB/s
    "b300": 8000,
    "gb300": 8000,
    "gb200": 8000,
    "gh200": 4000,
    "h100-nvl": 3900,
    "h100-pcie": 2000,
    "rtx-pro-6000": 1792,
    "rtx-5090": 1792,
    "rtx-4090": 1008,
    "rtx-6000-ada": 960,
    "rtx-3090": 936,
    "a30": 933,
    "v100": 900,
    "l40s": 864,
    "l40": 864,
    "l20": 864,
    "a6000": 768,
    "a40": 696,
    "a10": 600,
    "a10g": 600,
    "t4": 320,
    "l4": 300,
    "gb10": 273,
    "mi355x": 8000,
    "mi350x": 8000,
    "mi325x": 6000,
    "mi300x": 5300,
    "mi250x": 3277,
    "mi250": 3277,
    "mi210": 1638,
    "mi100": 1229,
    "gaudi3": 3700,
    "gaudi2": 2450,
    "b60": 456,
}

LINES = ((0.0, 0.0), (2039.0, 1.0), (3350.0, 1.6), (8000.0, 2.5))
"""(GB/s, weight), ascending."""

ALIASES = {"a100": "a100-80gb", "a800": "a100-80gb", "h800": "h100"}
"""Other names: for an A100 whose memory is not stated, and for the versions with slower links."""


def _by_bandwidth(bandwidth: float) -> float:
    """The weight on LINES, which must reach that far."""
    (x, y), (x2, y2) = next(pair for pair in pairwise(LINES) if bandwidth <= pair[1][0])
    return round(y + (y2 - y) * (bandwidth - x) / (x2 - x), 2)


PRIORS = ANCHORS | {name: _by_bandwidth(bandwidth) for name, bandwidth in BANDWIDTH.items()}

_WORDS = {frozenset(name.split("-")): name for name in (*PRIORS, *ALIASES)}


def prior_weight(gpu: str, count: int = 1) -> float | None:
    """The weight of `count` GPUs by their name as people write it ("NVIDIA H100 80GB HBM3", "A100-40GB"); None if it is
    not known. Of several names that fit, the one with the most words counts ("H100 PCIe" before "H100")."""
    words = set(re.findall(r"[a-z0-9]+", re.sub(r"(\d)[\s_-]*gb\b", r"\1gb", gpu.lower())))
    fitting = [known for known in _WORDS if known <= words]
    if not fitting:
        return None
    name = _WORDS[max(fitting, key=len)]
    return PRIORS[ALIASES.get(name, name)] * count
