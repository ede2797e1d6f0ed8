"""From an ASGI request to an InferenceRequest: read the body within its limit, understand it, estimate its cost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from llmgate.core.errors import BadRequest, BodyTooLarge
from llmgate.core.estimate import byte_classes
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import InferenceRequest, Kind
from llmgate.gateway.asgi import Message, Receive, Scope
from llmgate.tokens import TokenCounter, TokenizerError, count_prompt
from llmgate.wire.openai import Body, parse_body
from llmgate.wire.prefix_keys import prefix_keys

logger = logging.getLogger("llmgate.gateway")

INLINE_TOKENIZE_BYTES = 2048
"""Longer prompts are tokenized in a thread: about 0.3 ms of the event loop's time is what 2 KiB take (measured)."""


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class Intake:
    def __init__(self, scheduler: Scheduler, tokenizers: Mapping[str, TokenCounter], body_limit: int) -> None:
        self._scheduler = scheduler
        self._tokenizers = tokenizers  # by public model name
        self._body_limit = body_limit
        self._broken: set[str] = set()  # models whose tokenizer was reported as failing

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises BodyTooLarge, at best before any of it is read, and ClientGone."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._body_limit:
                raise BodyTooLarge(f"The request body is larger than {self._body_limit} bytes.")
        message = await receive()
        body: bytes = _body_of(message)
        if not message.get("more_body"):
            if len(body) > self._body_limit:
                raise BodyTooLarge(f"The request body is larger than {self._body_limit} bytes.")
            return body
        pieces, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            pieces.append(_body_of(message))
            size += len(pieces[-1])
            if size > self._body_limit:
                raise BodyTooLarge(f"The request body is larger than {self._body_limit} bytes.")
        return b"".join(pieces)

    async def understand(self, kind: Kind, body: bytes, request_id: str, now: float) -> tuple[InferenceRequest, Body]:
        """What routing needs to know. Raises BadRequest, ModelNotFound, NoReadyEndpoint."""
        scheduler = self._scheduler
        fields = parse_body(body)
        model = scheduler.admit(self._sole_model() if fields.model is None else fields.model, now)
        parts = fields.prompt_parts(kind)
        classes = None
        tokens = await self._count(model, kind, fields) if model in self._tokenizers else None
        if tokens is None:
            classes = byte_classes(parts[0] + parts[1] if len(parts) > 1 and parts[0] else parts[-1])
            tokens = scheduler.estimate_prompt(model, classes)
        keys, size = prefix_keys(model, parts) if scheduler.router.needs_prefix else ((), 0)
        limit = fields.output_limit
        request = InferenceRequest(
            request_id,
            kind,
            model,
            fields.stream is True,
            tokens,
            scheduler.expect_output(model, kind, limit),
            limit,
            size,
            keys,
            classes,
        )
        return request, fields

    def _sole_model(self) -> str:
        models = self._scheduler.pool.models
        if len(models) > 1:
            raise BadRequest("you must provide a model parameter", param="model", code="missing_model")
        return models[0] if models else ""

    async def _count(self, model: str, kind: Kind, fields: Body) -> int | None:
        """Exact prompt tokens, or None if the tokenizer cannot do this prompt."""
        counter = self._tokenizers[model]
        raw = {"messages": fields.messages, "prompt": fields.prompt, "input": fields.input, "tools": fields.tools}
        size = sum(len(bytes(part)) for part in raw.values())

        def work() -> int:
            decoded: dict[str, Any] = {key: msgspec.json.decode(part) for key, part in raw.items() if bytes(part)}
            return count_prompt(counter, kind, decoded)

        try:
            if size <= INLINE_TOKENIZE_BYTES:
                return work()
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except (TokenizerError, msgspec.DecodeError, TypeError, ValueError) as error:
            if model not in self._broken:
                self._broken.add(model)
                logger.warning("tokenizer of %s failed (%s): such prompts are estimated", model, type(error).__name__)
            return None


def _body_of(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    return body
