"""From a request's bytes to an InferenceRequest: understand it, estimate or count its tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from llmgate.core.errors import BadRequest, RouteNotFound
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import InferenceRequest
from llmgate.tokens import TokenCounter, TokenizerError, count_prompt
from llmgate.wire.headers import Header, find
from llmgate.wire.kinds import KINDS, KindSpec
from llmgate.wire.multipart import boundary_of, parse_form
from llmgate.wire.openai import Body, parse_body
from llmgate.wire.prefix_keys import prefix_keys
from llmgate.wire.session import session_key

logger = logging.getLogger("llmgate.gateway")

INLINE_TOKENIZE_BYTES = 2048
"""Longer prompts are tokenized in a thread: about 0.3 ms of the event loop's time is what 2 KiB take (measured)."""


UNKNOWN_URL = "Unknown request URL; see the list of routes in the docs."


class Intake:
    """`log_sessions`: session keys are wanted even if the router has no use for them."""

    def __init__(
        self, scheduler: Scheduler, tokenizers: Mapping[str, TokenCounter], *, log_sessions: bool = False
    ) -> None:
        self._scheduler = scheduler
        self._broken: set[str] = set()  # models whose tokenizer was reported as failing
        self.tokenizers = tokenizers  # by public model name
        self.log_sessions = log_sessions

    def understand(
        self, spec: KindSpec, headers: list[Header], body: bytes, request_id: str, now: float
    ) -> tuple[InferenceRequest, Body]:
        """What routing needs to know, with estimated tokens. Raises BadRequest, ModelNotFound, NoReadyEndpoint, and
        RouteNotFound for what is no request without a model and has none."""
        scheduler = self._scheduler
        fields = _parse(spec, headers, body) if spec.form else parse_body(body)
        model = scheduler.admit(self._sole_model() if fields.model is None else fields.model, now)
        router = scheduler.router
        session = session_key(headers, fields) if self.log_sessions or router.needs_session else None
        kind, limit = spec.kind, spec.output_limit(fields)
        output = scheduler.expect_output(model, kind, limit)
        if not spec.prompt:
            tokens = 1 + (len(body) // spec.bytes_per_token if spec.bytes_per_token else 0)
            request = InferenceRequest(request_id, kind, model, fields.stream, tokens, output, limit, session=session)
            return request, fields
        prompt = spec.prompt_of(fields)
        keys: Sequence[int] = prefix_keys(model, prompt) if router.needs_prefix else ()
        holders = scheduler.holders(keys)
        classes = scheduler.classify(prompt, keys, holders)
        request = InferenceRequest(
            request_id,
            kind,
            model,
            fields.stream,
            scheduler.knowledge(model).prompt.estimate(classes),
            output,
            limit,
            len(prompt),
            keys,
            holders,
            classes,
            session,
        )
        return request, fields

    async def count(self, request: InferenceRequest, fields: Body) -> None:
        """Replace the estimate by the exact count, for models with a tokenizer."""
        tokens = await self._count(request.model, KINDS[request.kind], fields)
        request.holders = None  # time has passed
        if tokens is not None:
            request.prompt_tokens = tokens
            request.byte_classes = None

    def _sole_model(self) -> str:
        models = self._scheduler.pool.models
        if len(models) > 1:
            raise BadRequest("you must provide a model parameter", param="model", code="missing_model")
        return models[0] if models else ""

    async def _count(self, model: str, spec: KindSpec, fields: Body) -> int | None:
        """Exact prompt tokens, or None if the kind has none to count or the tokenizer cannot do this prompt."""
        if spec.countable is None:
            return None
        counter, as_prompt = self.tokenizers[model], spec.countable
        raw = {name: part for name in (*spec.prompt, "chat_template_kwargs") if (part := getattr(fields, name))}
        size = sum(map(len, raw.values()))

        def work() -> int:
            return count_prompt(counter, *as_prompt({name: msgspec.json.decode(part) for name, part in raw.items()}))

        try:
            if size <= INLINE_TOKENIZE_BYTES:
                return work()
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except (TokenizerError, msgspec.DecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
            if model not in self._broken:
                self._broken.add(model)
                logger.warning("tokenizer of %s failed (%s): such prompts are estimated", model, type(error).__name__)
            return None


def _parse(spec: KindSpec, headers: list[Header], body: bytes) -> Body:
    """For kinds that may come as a form, and those that are known only by their model."""
    try:
        boundary = boundary_of(find(headers, b"content-type"))
        fields = parse_body(body) if boundary is None else parse_form(body, boundary)
    except BadRequest as error:
        if spec.model_required and error.param is None:  # there is no making out whether it has one
            raise RouteNotFound(UNKNOWN_URL) from None
        raise
    if spec.model_required and fields.model is None:
        raise RouteNotFound(UNKNOWN_URL)
    return fields
