"""A completion request as the API has it → a Job for the engine."""

from __future__ import annotations

import time
import uuid
from itertools import count
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from llmgate.engines.request import EngineRequest
from llmgate.sim.http_engine.answer import Named, Stream
from llmgate.sim.http_engine.body import Body, answer_limit, decode_body, prompt_ids
from llmgate.sim.http_engine.chain import chain_ids, root
from llmgate.sim.http_engine.errors import bad_field
from llmgate.sim.http_engine.http import Exchange
from llmgate.sim.http_engine.job import Job
from llmgate.sim.http_engine.models import Models
from llmgate.sim.http_engine.settings import Settings
from llmgate.sim.http_engine.tokenizer import Filler, TokenIds

TIMES_HEADER = b"x-sim-times"
"""With it, `usage.x_sim` tells when the model says that things happened."""


class Completions:
    """Makes jobs. The same request gets the same answer: words and length are drawn from its tokens and its `seed`."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings = settings
        self._models = models
        self._profile = settings.profile
        self._filler = Filler(settings.tokenizer.words)
        self._ids = count()

    def job(self, exchange: Exchange, *, chat: bool, break_after: int | None = None) -> Job:
        """Raises Refused."""
        body = decode_body(exchange.body, chat=chat)
        adapter = self._models.find(body.model)
        prompt = prompt_ids(body, self._settings.tokenizer, chat=chat)
        if not len(prompt):
            raise bad_field("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
        limit = answer_limit(body, len(prompt), self._profile.max_model_len)
        ids, pieces, reason = self._answer(body, prompt, limit)
        lora = None if adapter is None else (adapter.id, adapter.name)
        named = Named(_answer_id(exchange, chat=chat), body.model or self._models.model, int(time.time()))
        return Job(
            exchange,
            self._request(exchange, body, len(prompt), ids, None if adapter is None else adapter.name),
            named,
            chat,
            pieces,
            reason,
            limit,
            _stream(body, named, len(prompt), chat=chat),
            ids,
            lora,
            body.cache_salt,
            tell_times=TIMES_HEADER in exchange.headers,
            tell_cached=self._settings.prompt_tokens_details,
            break_after=break_after,
        )

    def _answer(self, body: Body, prompt: TokenIds, limit: int) -> tuple[TokenIds, list[bytes], str]:
        """Ids of prompt and answer, the answer's pieces, why it ends."""
        seed = xxh3_64_intdigest(prompt.tobytes(), (self._settings.seed ^ (body.seed or 0)) & 0xFFFF_FFFF_FFFF_FFFF)
        wanted = limit if body.ignore_eos else max(self._settings.lengths.draw(seed), body.min_tokens, 1)
        if wanted >= limit:
            answer, pieces, reason = self._filler.ids(seed, limit), self._filler.pieces(seed, limit), "length"
        else:  # the last is the token that ends it, which has no text
            end = np.array([self._settings.tokenizer.end], np.uint32)
            answer = np.concatenate([self._filler.ids(seed, wanted - 1), end])
            pieces, reason = [*self._filler.pieces(seed, wanted - 1), b""], "stop"
        return np.concatenate([prompt, answer]), pieces, reason

    def _request(
        self, exchange: Exchange, body: Body, prompt_tokens: int, ids: TokenIds, adapter: str | None
    ) -> EngineRequest:
        block = self._profile.block_tokens
        return EngineRequest(
            next(self._ids),
            prompt_tokens,
            len(ids) - prompt_tokens,
            chain_ids(ids, block, root(adapter, body.cache_salt)),
            block,
            _priority(exchange, body),
        )


def _stream(body: Body, named: Named, prompt_tokens: int, *, chat: bool) -> Stream | None:
    if not body.stream:
        return None
    options = body.stream_options
    include = bool(options and options.include_usage)
    continuous = include and bool(options and options.continuous_usage_stats)
    return Stream(named, prompt_tokens, chat=chat, include_usage=include, continuous=continuous)


def _answer_id(exchange: Exchange, *, chat: bool) -> str:
    """vLLM takes the client's X-Request-Id into it."""
    return f"{'chatcmpl' if chat else 'cmpl'}-{exchange.header(b'x-request-id') or uuid.uuid4().hex[:16]}"


def _priority(exchange: Exchange, body: Body) -> int:
    """The header goes before the field."""
    header = exchange.header(b"x-vllm-priority")
    try:
        return int(header) if header else body.priority
    except ValueError:
        return body.priority


def tokenized(settings: Settings, fields: dict[str, Any], ids: TokenIds) -> dict[str, Any]:
    """What /tokenize answers."""
    strings = [settings.tokenizer.decode([int(token)]) for token in ids] if fields.get("return_token_strs") else None
    return {
        "count": len(ids),
        "max_model_len": settings.profile.max_model_len,
        "tokens": ids.tolist(),
        "token_strs": strings,
    }
