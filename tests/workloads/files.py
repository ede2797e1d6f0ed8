"""Trace files for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def jsonl(path: Path, *lines: object) -> Path:
    """Text lines stand as they are."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def mooncake(at_ms: float, prompt: int, output: int, ids: Sequence[int]) -> dict[str, Any]:
    return {"timestamp": at_ms, "input_length": prompt, "output_length": output, "hash_ids": list(ids)}


def call(t: float, prompt: int, out: int, keep: int, *add: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A request of a claude_code session."""
    return {"t": t, "type": "n", "in": prompt, "out": out, "keep": keep, "add": list(add), "api_time": 1.0, **more}


def session(*calls: dict[str, Any], tools: int = 0, system: int = 0, name: str = "s") -> dict[str, Any]:
    return {"id": name, "block_size": 64, "tool_tokens": tools, "system_tokens": system, "requests": list(calls)}
