"""Engines as people write them: COUNTx[GPUS]GPU:MODEL, comma-separated."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from llmgate.engines import measured, roofline
from llmgate.engines.profile import EngineProfile

PATTERN = re.compile(r"(?:(?P<count>\d+)x)?(?P<gpus>\d+)?(?P<gpu>[a-z][^:@]*):(?P<model>[^@]+)(?P<options>(?:@[^@]+)*)")
FORM = "COUNTx[GPUS]GPU:MODEL[@KEY=VALUE…], as in 8xh100:llama-3.1-8b or 8x4h100:llama-3.1-70b@max_running=128"
MOST = 4096
"""Engines in one specification: a slip of the finger is no reason to fill the memory."""

NUMBERS = {field.name: field.type for field in fields(EngineProfile) if field.type in ("int", "float")}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    name: str  # h100-0
    profile: EngineProfile


def parse_specs(text: str) -> list[EngineSpec]:
    """`4xh100:llama-3.1-8b,6xa100:llama-3.1-8b@max_running=128` → h100-0 … h100-3, a100-0 … a100-5. What was measured
    (measured.py) comes before what is computed (roofline.py), and what is stated before both. ValueError: what is
    wrong with which part, with the nearest names."""
    made: Counter[str] = Counter()
    specs: list[EngineSpec] = []
    for part in text.split(","):
        count, label, profile = _parse(part.strip())
        if len(specs) + count > MOST:
            raise ValueError(f"engines {part.strip()!r}: more than {MOST} engines")
        specs += [EngineSpec(f"{label}-{made[label] + n}", profile) for n in range(count)]
        made[label] += count
    return specs


def parse_profile(text: str) -> EngineProfile:
    """`[GPUS]GPU:MODEL[@KEY=VALUE…]`: one engine's profile. ValueError as with parse_specs."""
    return _parse(text.strip())[2]


def _parse(part: str) -> tuple[int, str, EngineProfile]:
    match = PATTERN.fullmatch(part.lower())
    if match is None:
        raise ValueError(f"engines {part!r}: write {FORM}")
    count, gpus = int(match["count"] or 1), int(match["gpus"] or 1)
    if not count:
        raise ValueError(f"engines {part!r}: the count must be at least 1")
    try:
        profile = roofline.profile(match["gpu"], match["model"], gpus)
        profile = replace(profile, **measured.CONSTANTS.get(profile.name, {}))
        profile = replace(profile, **dict(_option(option) for option in match["options"].split("@")[1:]))
    except ValueError as error:
        raise ValueError(f"engines {part!r}: {error}") from None
    return count, match["gpu"], profile


def _option(option: str) -> tuple[str, Any]:
    key, _, value = option.partition("=")
    kind = NUMBERS.get(key)
    if kind is None or key == "gpus":
        near = get_close_matches(key, NUMBERS, n=1)
        raise ValueError(f"no number {key!r} in a profile" + (f": did you mean {near[0]}?" if near else ""))
    try:
        number = int(value) if kind == "int" else float(value)
    except ValueError:
        raise ValueError(f"{key}={value}: not a number") from None
    if not 0 <= number < 1e12:
        raise ValueError(f"{key}={value}: must not be negative or infinite")
    return key, number
