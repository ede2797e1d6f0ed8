"""From a request's bytes to an InferenceRequest: understand it, estimate or count its tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llmgate.core.errors import BadRequest
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import InferenceRequest, Kind
from llmgate.tokens import TokenCounter, TokenizerError, count_prompt
from llmgate.wire.openai import Body, parse_body
from llmgate.wire.prefix_keys import prefix_keys

logger = logging.getLogger("llmgate.gateway")

INLINE_TOKENIZE_BYTES = 2048
"""Longer prompts are tokenized in a thread: about 0.3 ms of the event loop's time is what 2 KiB take (measured)."""


class Intake:
    def __init__(self, scheduler: Scheduler, tokenizers: Mapping[str, TokenCounter]) -> None:
        self._scheduler = scheduler
        self._broken: set[str] = set()  # models whose tokenizer was reported as failing
        self.tokenizers = tokenizers  # by public model name

    def understand(self, kind: Kind, body: bytes, request_id: str, now: float) -> tuple[InferenceRequest, Body]:
        """What routing needs to know, with estimated tokens. Raises BadRequest, ModelNotFound, NoReadyEndpoint."""
        scheduler = self._scheduler
        fields = parse_body(body)
        model = scheduler.admit(self._sole_model() if fields.model is None else fields.model, now)
        prompt = fields.prompt(kind)
        keys: Sequence[int] = prefix_keys(model, prompt) if scheduler.router.needs_prefix else ()
        holders = scheduler.holders(keys)
        classes = scheduler.classify(prompt, keys, holders)
        limit = fields.output_limit
        request = InferenceRequest(
            request_id,
            kind,
            model,
            fields.stream is True,
            scheduler.knowledge(model).prompt.estimate(classes),
            scheduler.expect_output(model, kind, limit),
            limit,
            len(prompt),
            keys,
            holders,
            classes,
        )
        return request, fields

    async def count(self, request: InferenceRequest, fields: Body) -> None:
        """Replace the estimate by the exact count, for models with a tokenizer."""
        tokens = await self._count(request.model, request.kind, fields)
        request.holders = None  # time has passed
        if tokens is not None:
            request.prompt_tokens = tokens
            request.byte_classes = None

    def _sole_model(self) -> str:
        models = self._scheduler.pool.models
        if len(models) > 1:
            raise BadRequest("you must provide a model parameter", param="model", code="missing_model")
        return models[0] if models else ""

    async def _count(self, model: str, kind: Kind, fields: Body) -> int | None:
        """Exact prompt tokens, or None if the tokenizer cannot do this prompt."""
        counter = self.tokenizers[model]
        raw = {
            "messages": fields.messages,
            "prompt": fields.prompt_field,
            "input": fields.input,
            "tools": fields.tools,
            "chat_template_kwargs": fields.chat_template_kwargs,
        }
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
