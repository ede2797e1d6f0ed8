"""KV events as vLLM sent them: see tests/data/kv_events/README.md."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "data/kv_events/vllm-0.32/session.json"


@dataclass(frozen=True)
class Step:
    """One request; `messages_before` live messages had come when it was sent."""

    name: str
    salt: str
    token_ids: list[int]
    messages_before: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Session:
    sources: bytes  # the body of GET /kv_event_sources
    steps: list[Step]
    live: list[list[bytes]]
    replay_first: list[bytes]
    replay_end: list[bytes]


def session() -> Session:
    said = json.loads(PATH.read_text())
    return Session(
        json.dumps(said["sources"]).encode(),
        [Step(**{**step, "token_ids": _ids(step["token_ids"])}) for step in said["steps"]],
        [_frames(message) for message in said["live"]],
        _frames(said["replay_first"]),
        _frames(said["replay_end"]),
    )


def _ids(said: Any) -> list[int]:
    return said if isinstance(said, list) else list(range(said["start"], said["start"] + said["count"]))


def _frames(message: list[str]) -> list[bytes]:
    return [base64.b64decode(frame) for frame in message]
