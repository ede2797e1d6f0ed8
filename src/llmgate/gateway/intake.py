"""From a request's bytes to an InferenceRequest: understand it, estimate or count its tokens."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from llmgate.core.errors import BadRequest, RouteNotFound
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import InferenceRequest
from llmgate.tokens import Chain, Counted, Pending, TokenCounter, TokenizerError, prepare_prompt
from llmgate.wire.headers import Header, find
from llmgate.wire.kinds import KINDS, KindSpec
from llmgate.wire.multipart import boundary_of, parse_form
from llmgate.wire.openai import ABSENT, Body, parse_body
from llmgate.wire.prefix_keys import prefix_keys
from llmgate.wire.session import session_key
from llmgate.wire.token_keys import block_keys, token_seed

logger = logging.getLogger("llmgate.gateway")

INLINE_SECONDS = 200e-6
"""Work on a prompt that is expected to take longer leaves the event loop. A trip to a thread and back costs about half
of it."""

READ_SECONDS_PER_BYTE = 1.1e-9
READ_SECONDS_PER_MESSAGE = 3.8e-6
"""What decoding a chat, rendering its template and looking up its beginning take, whatever is known of it: measured
with SmolLM2's template on chats of 8 to 128 KB and 4 to 200 messages (docs/token-estimates.md)."""

_UNREADABLE = (TokenizerError, msgspec.DecodeError, TypeError, ValueError, KeyError, AttributeError, RecursionError)


UNKNOWN_URL = "Unknown request URL; see the list of routes in the docs."


class Intake:
    """`log_sessions`: session keys are wanted even if the router has no use for them."""

    def __init__(
        self, scheduler: Scheduler, tokenizers: Mapping[str, TokenCounter], *, log_sessions: bool = False
    ) -> None:
        self._scheduler = scheduler
        self.tokenizers = tokenizers  # by public model name
        self.uncountable: Counter[str] = Counter()  # prompts that a model's tokenizer or template could not do
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
        if not spec.prompt:
            output = scheduler.expect_output(model, kind, limit)
            tokens = 1 + (len(body) // spec.bytes_per_token if spec.bytes_per_token else 0)
            request = InferenceRequest(request_id, kind, model, fields.stream, tokens, output, limit, session=session)
            return request, fields
        prompt = spec.prompt_of(fields)
        keys: Sequence[int] = ()
        if router.needs_prefix:
            salt = fields.cache_salt
            keys = prefix_keys(model, prompt) if salt is ABSENT else prefix_keys(model, prompt, bytes(salt))
        holders = scheduler.holders(keys)
        classes = scheduler.classify(prompt, keys, holders)
        known = scheduler.knowledge(model)
        tokens = known.prompt.estimate(classes)
        tenant = _tenant(headers, fields)
        request = InferenceRequest(
            request_id,
            kind,
            model,
            fields.stream,
            tokens,
            round(known.output.expect(limit, tokens, tenant)) if kind.generates else 0,
            limit,
            len(prompt),
            keys,
            holders,
            classes,
            session,
            tenant=tenant,
        )
        return request, fields

    async def count(self, request: InferenceRequest, fields: Body) -> None:
        """Replace the estimate by the exact count, for models with a tokenizer, and add the chain keys of the prompt's
        blocks of tokens where engines tell what their caches hold."""
        spec = KINDS[request.kind]
        if spec.countable is None:
            return
        block_tokens, chain = self._scheduler.block_tokens(request.model), None
        try:
            if block_tokens is not None:
                chain = Chain(
                    block_keys, block_tokens, token_seed(self._scheduler.chain_name(request.model), _salt(fields))
                )
            counted = await self._read(request, spec, fields, chain)
        except _UNREADABLE as error:
            if not self.uncountable[request.model]:
                reason = str(error) if isinstance(error, TokenizerError) else type(error).__name__
                logger.warning("a prompt of %s cannot be counted (%s): such are estimated", request.model, reason)
            self.uncountable[request.model] += 1
            return
        request.prompt_tokens = counted.tokens
        request.byte_classes = None
        if chain is not None:
            request.blocks, request.block_tokens = counted.keys, chain.block_tokens

    def _sole_model(self) -> str:
        models = self._scheduler.pool.models
        if len(models) > 1:
            raise BadRequest("you must provide a model parameter", param="model", code="missing_model")
        return models[0] if models else ""

    async def _read(self, request: InferenceRequest, spec: KindSpec, fields: Body, chain: Chain | None) -> Counted:
        """In a thread what would keep the event loop for too long: all of it, or what is left once the beginning of a
        conversation was recognized. Raises one of _UNREADABLE."""
        counter, as_prompt = self.tokenizers[request.model], spec.countable
        assert as_prompt is not None
        raw = {name: part for name in (*spec.prompt, "chat_template_kwargs") if (part := getattr(fields, name))}

        def prepare() -> Pending:
            decoded = {name: msgspec.json.decode(part) for name, part in raw.items()}
            return prepare_prompt(counter, *as_prompt(decoded), chain)

        messages = request.byte_classes.messages if request.byte_classes is not None else 0.0
        reading = request.prompt_bytes * READ_SECONDS_PER_BYTE + messages * READ_SECONDS_PER_MESSAGE
        loop = asyncio.get_running_loop()
        if reading > INLINE_SECONDS:
            request.holders = None  # time will have passed
            return await loop.run_in_executor(None, lambda: prepare().finish())
        pending = prepare()
        if reading + pending.unknown_bytes * counter.seconds_per_byte <= INLINE_SECONDS:
            return pending.finish()
        request.holders = None
        return await loop.run_in_executor(None, pending.finish)


def _tenant(headers: list[Header], fields: Body) -> int | None:
    """Tells apart who asks, by `user` or else the client's key; hashed, so that neither is kept."""
    if fields.user is not ABSENT:
        return hash(bytes(fields.user))
    for name, value in headers:
        if name == b"authorization":
            return hash(value)
    return None


def _salt(fields: Body) -> str:
    """vLLM's `cache_salt`, which keeps prefix caches apart. Raises msgspec.DecodeError."""
    salt = msgspec.json.decode(fields.cache_salt) if fields.cache_salt else ""
    return salt if isinstance(salt, str) else ""


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
