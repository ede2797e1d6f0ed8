"""Request bodies, put together as bytes: prompts are ASCII words that need no escaping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

CHAT, COMPLETIONS = "chat", "completions"
PATHS = {CHAT: b"/v1/chat/completions", COMPLETIONS: b"/v1/completions"}


@dataclass(frozen=True, slots=True)
class BodyForm:
    """What the bodies of a run have in common."""

    endpoint: str = CHAT
    stream: bool = True
    usage: bool = True  # ask for usage at the end of streams
    ignore_eos: bool = True
    limit: str = "max_tokens"  # or max_completion_tokens, which some servers want
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> bytes:
        return PATHS[self.endpoint]

    def body(self, model: str, prompt: bytes, output_tokens: int, priority: int = 0) -> bytes:
        fields: dict[str, Any] = {self.limit: output_tokens}
        if self.stream:
            fields["stream"] = True
            if self.usage:
                fields["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            fields["ignore_eos"] = True  # vLLM, SGLang, llama.cpp: the answer has the length that the workload says
        if priority:
            fields["priority"] = priority
        rest = msgspec.json.encode({**fields, **self.extra})
        name = msgspec.json.encode(model)
        if self.endpoint == CHAT:
            return b'{"model":%b,"messages":[{"role":"user","content":"%b"}],%b' % (name, prompt, rest[1:])
        return b'{"model":%b,"prompt":"%b",%b' % (name, prompt, rest[1:])
