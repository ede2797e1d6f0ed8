"""Times and sizes as people write them on a command line."""

from __future__ import annotations

import math
import re

_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """From "50ms", "2s", "1.5", "10m", "1h". ValueError says what is wrong."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no time: write it as 50ms, 2s, 10m or 1h")
    value = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is too long a time")
    return value
