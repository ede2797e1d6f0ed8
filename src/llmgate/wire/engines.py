"""The engines that llmgate knows: how to recognise each, where to ask it, and what its gauges are called.

A new engine is one entry of `ENGINES`. Pure: callers fetch the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

import msgspec

from llmgate.core.types import Kind

GENERIC = "openai"
"""An OpenAI-compatible server of unknown make: it is routed to by the gateway's own accounting only."""

MAX_JSON_BYTES = 1024 * 1024
"""Larger answers to questions other than for models tell nothing: decoding them would hold the loop. SGLang's and
llama.cpp's, the longest, have some 10 kB."""

MAX_MODELS = 10_000
"""More in one list are refused. A base model and its LoRA adapters are some thousand at the most."""

MAX_NAME = 1024
"""Characters; models with longer names are left out."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where one number stands on a metrics page: a gauge's value, or a label's value on an info series."""

    metric: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while an engine runs; None where it does not tell."""

    kv_capacity_tokens: int | None = None
    max_running: int | None = None

    @property
    def complete(self) -> bool:
        return None not in (self.kv_capacity_tokens, self.max_running)

    def or_else(self, other: Facts) -> Facts:
        """These, and the other's where these do not tell."""
        return Facts(self.kv_capacity_tokens or other.kv_capacity_tokens, self.max_running or other.max_running)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One make of engine. Every tuple of names is a list of candidates: the first that the page has counts."""

    health_path: str = "/health"
    metrics_paths: tuple[str, ...] = ("/metrics",)
    prefix: str | None = None  # of its metrics' names, a regular expression
    owned_by: str | None = None  # in its /v1/models
    server: str | None = None  # start of its Server header, lower case
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    kv_usage: tuple[str, ...] = ()
    capacity: tuple[tuple[Reading, ...], ...] = ()  # each candidate is a product, in tokens
    max_running: tuple[str, ...] = ()  # how many requests it runs at once, the others wait
    # counters; each candidate is a sum
    prompt_tokens: tuple[tuple[str, ...], ...] = ()  # cached ones among them
    cached_tokens: tuple[tuple[str, ...], ...] = ()
    completion_tokens: tuple[tuple[str, ...], ...] = ()
    preemptions: tuple[tuple[str, ...], ...] = ()
    awake: tuple[str, str, str] | None = None  # a gauge, its label, its value there: such a series is 0 while it sleeps
    facts_page: tuple[str, Callable[[bytes], Facts]] | None = None  # asked once for what metrics do not tell
    ignores_disconnects: bool = False  # works on for a client that has left, unless it streams
    takes_stream_options: bool = True  # may be asked for usage on a client's behalf: nothing else changes by that
    lacks: frozenset[Kind] = frozenset()  # kinds of request that it is known to have no path for


def product(*factors: object) -> int | None:
    """Of positive whole numbers; None when any of them is something else."""
    total = 1
    for factor in factors:
        if not isinstance(factor, int) or isinstance(factor, bool) or factor <= 0:
            return None
        total *= factor
    return total


def parse_props(body: bytes) -> Facts:
    """llama.cpp's /props: a slot runs one request, and the context is stated per slot."""
    props = _object(body)
    settings = props.get("default_generation_settings")
    slots = product(props.get("total_slots"))
    return Facts(product(slots, settings.get("n_ctx") if isinstance(settings, dict) else None), slots)


def parse_tgi_info(body: bytes) -> Facts:
    """TGI's /info; releases after 2.0 do not tell the capacity, and `max_batch_size` only if it was set."""
    info = _object(body)
    return Facts(product(info.get("max_batch_total_tokens")), product(info.get("max_batch_size")))


def parse_sglang_info(body: bytes) -> Facts:
    """SGLang's /get_server_info: the capacity of one data-parallel rank, and the requests it runs if that was set."""
    info = _object(body)
    ranks = product(info.get("dp_size", 1))
    return Facts(product(info.get("max_total_num_tokens"), ranks), product(info.get("max_running_requests"), ranks))


# Names and paths: seen on live servers for vLLM 0.32 and llama.cpp; for the others taken from their sources and
# documentation. See tests/data/engines/README.md.
ENGINES: Mapping[str, EngineKind] = {
    "vllm": EngineKind(
        prefix="vllm:",
        owned_by="vllm",
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the latter until V1
        capacity=(
            (Reading("vllm:cache_config_info", "kv_cache_size_tokens"),),
            # overstates models with several groups of layers
            (Reading("vllm:cache_config_info", "num_gpu_blocks"), Reading("vllm:cache_config_info", "block_size")),
        ),
        prompt_tokens=(("vllm:prompt_tokens_total",),),
        # the first counts what a KV connector has brought, too; the last is early V1's
        cached_tokens=(
            ("vllm:prompt_tokens_cached_total",),
            ("vllm:prefix_cache_hits_total",),
            ("vllm:gpu_prefix_cache_hits_total",),
        ),
        completion_tokens=(("vllm:generation_tokens_total",),),
        preemptions=(("vllm:num_preemptions_total",),),
        # asleep, its /health answers 200 and its queues are empty, but a request hangs
        awake=("vllm:engine_sleep_state", "sleep_state", "awake"),
        lacks=frozenset({Kind.GENERATE}),
    ),
    "sglang": EngineKind(
        # without --enable-metrics there is no /metrics, but /v1/loads still tells
        metrics_paths=("/metrics", "/v1/loads?include=core&format=prometheus"),
        prefix="sglang[:_]",  # the separator changed with releases, and changed back
        owned_by="sglang",
        running=("sglang:num_running_reqs", "sglang_num_running_reqs"),
        waiting=("sglang:num_queue_reqs", "sglang_num_queue_reqs", "sglang_num_waiting_reqs"),
        kv_usage=("sglang:token_usage", "sglang_token_usage"),
        capacity=(
            (Reading("sglang:max_total_num_tokens"),),
            (Reading("sglang_max_total_num_tokens"),),
            (Reading("sglang:page_size"), Reading("sglang:num_pages")),
            (Reading("sglang_page_size"), Reading("sglang_num_pages")),
            (Reading("sglang:cache_config_info", "page_size"), Reading("sglang:cache_config_info", "num_pages")),
            (Reading("sglang_cache_config_info", "page_size"), Reading("sglang_cache_config_info", "num_pages")),
        ),
        max_running=("sglang:max_running_requests", "sglang_max_running_requests"),
        prompt_tokens=(("sglang:prompt_tokens_total",), ("sglang_prompt_tokens_total",)),
        cached_tokens=(("sglang:cached_tokens_total",), ("sglang_cached_tokens_total",)),
        completion_tokens=(("sglang:generation_tokens_total",), ("sglang_generation_tokens_total",)),
        preemptions=(("sglang:num_retracted_requests_total",), ("sglang_num_retracted_requests_total",)),
        facts_page=("/get_server_info", parse_sglang_info),
    ),
    "tgi": EngineKind(
        prefix="tgi_",
        running=("tgi_batch_current_size",),
        waiting=("tgi_queue_size",),
        prompt_tokens=(("tgi_request_input_length_sum",),),
        completion_tokens=(("tgi_request_generated_tokens_sum",),),
        facts_page=("/info", parse_tgi_info),
        lacks=frozenset(
            {Kind.EMBEDDING, Kind.RESPONSES, Kind.MESSAGES, Kind.COUNT_TOKENS, Kind.RERANK, Kind.SCORE}
            | {Kind.DETOKENIZE, Kind.AUDIO}
        ),
    ),
    "trtllm": EngineKind(
        metrics_paths=("/prometheus/metrics",),  # /metrics is JSON, and reading it drains it
        prefix="trtllm_",
        owned_by="tensorrt_llm",
        running=("trtllm_num_requests_running",),
        waiting=("trtllm_num_requests_waiting",),
        kv_usage=("trtllm_kv_cache_utilization",),
        capacity=((Reading("trtllm_kv_cache_max_blocks"), Reading("trtllm_kv_cache_tokens_per_block")),),
        max_running=("trtllm_max_num_active_requests",),
        prompt_tokens=(("trtllm_prompt_tokens_total",),),
        completion_tokens=(("trtllm_generation_tokens_total",),),
        lacks=frozenset(
            {Kind.EMBEDDING, Kind.MESSAGES, Kind.COUNT_TOKENS, Kind.RERANK, Kind.SCORE, Kind.TOKENIZE}
            | {Kind.DETOKENIZE, Kind.GENERATE, Kind.AUDIO}
        ),
    ),
    "llamacpp": EngineKind(
        prefix="llamacpp:",
        owned_by="llamacpp",
        server="llama.cpp",
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        kv_usage=("llamacpp:kv_cache_usage_ratio",),  # gone from newer builds
        prompt_tokens=(("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),),
        cached_tokens=(("llamacpp:prompt_tokens_cached_total",),),
        completion_tokens=(("llamacpp:tokens_predicted_total",),),
        facts_page=("/props", parse_props),
        ignores_disconnects=True,
        takes_stream_options=False,  # asked for usage it moves `timings` into that chunk; unasked they tell the same
        lacks=frozenset({Kind.SCORE, Kind.GENERATE}),
    ),
    GENERIC: EngineKind(health_path="/v1/models", metrics_paths=(), takes_stream_options=False),
}


def make_of(engine: str | None) -> EngineKind:
    """What is known of an engine of this make; None: not recognised yet."""
    return ENGINES[engine or GENERIC]


@dataclass(frozen=True, slots=True)
class ModelList:
    """What /v1/models lists. LoRA adapters are names like any other; `parents` tells which models they adapt."""

    ids: tuple[str, ...]
    owners: tuple[str, ...]
    parents: Mapping[str, str] = field(default_factory=dict)


class TooManyModels(ValueError):
    """A list of more than MAX_MODELS models."""


class _Cards(msgspec.Struct):
    data: list[msgspec.Raw]


class _Card(msgspec.Struct):
    id: object = None
    owned_by: object = None
    parent: object = None  # of a LoRA adapter: the model that it adapts


def parse_models(body: bytes) -> ModelList | None:
    """None when the body is not OpenAI's list of models. Entries without a printable `id` are left out.

    Raises TooManyModels. A list of 8 MB takes at most some 50 ms, since cards are only decoded if there are few.
    """
    raw_cards = _decode(body, _Cards)
    if raw_cards is None:
        return None
    if len(raw_cards.data) > MAX_MODELS:
        raise TooManyModels(f"lists {len(raw_cards.data)} models, more than {MAX_MODELS}")
    cards = [card for raw in raw_cards.data if (card := _decode(raw, _Card)) is not None]
    return ModelList(
        tuple(dict.fromkeys(card.id for card in cards if _is_name(card.id))),
        tuple(dict.fromkeys(card.owned_by for card in cards if isinstance(card.owned_by, str))),
        {card.id: card.parent for card in cards if _is_name(card.id) and _is_name(card.parent)},
    )


def _is_name(value: object) -> TypeGuard[str]:
    """Names are shown in logs and on pages: no control characters, and no novels."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


# Detection: each clue is a path and what a 200 answer to it proves. They are tried in this order; then the Server
# header counts, and else the engine is GENERIC, never a guess.

_PREFIXES = "|".join(f"(?P<{name}>{kind.prefix})" for name, kind in ENGINES.items() if kind.prefix)
_METRIC = re.compile(f"\\n(?=\\S)(?:# (?:HELP|TYPE) )?(?:{_PREFIXES})".encode())  # faster than `(?m)^`
_METRIC_WITHIN = 1024 * 1024  # bytes from the start of a page


def engine_of_metrics(page: bytes) -> str | None:
    """By the prefix of the first known metric on the page."""
    found = _METRIC.search(b"\n" + page[:_METRIC_WITHIN])
    return found.lastgroup if found else None


def engine_of_models(body: bytes) -> str | None:
    """By `owned_by`."""
    try:
        listed = parse_models(body)
    except TooManyModels:
        return None
    if listed is None:
        return None
    return next((name for name, kind in ENGINES.items() if kind.owned_by and kind.owned_by in listed.owners), None)


def engine_of_info(body: bytes) -> str | None:
    return "tgi" if _object(body).get("router") == "text-generation-router" else None


def engine_of_loads(body: bytes) -> str | None:
    loads = _object(body).get("loads")
    known = isinstance(loads, list) and any(isinstance(load, dict) and "num_running_reqs" in load for load in loads)
    return "sglang" if known else None


def engine_of_server(server: str) -> str | None:
    """By the Server header of any answer."""
    return next(
        (name for name, kind in ENGINES.items() if kind.server and server.lower().startswith(kind.server)), None
    )


CLUES: tuple[tuple[str, Callable[[bytes], str | None]], ...] = (
    ("/metrics", engine_of_metrics),
    ("/v1/models", engine_of_models),
    ("/info", engine_of_info),
    ("/v1/loads", engine_of_loads),
    ("/prometheus/metrics", engine_of_metrics),
)


# Refusals. Every engine that refuses work because it is full answers 429 or 503 (core/retry.py); but a stream of
# SGLang has begun by then: 200, and an error for its first event.

STREAM_ERROR = (b'data: {"error"', b'data:{"error"')
"""How such a stream begins."""

_FIRST_EVENT = re.compile(rb"data: ?(\{.*\})\r?\n")


def stream_refusal(begin: bytes) -> int | None:
    """The status, 400 to 599, of the error that a stream consists of if that is what it begins with.

    `begin` is what came first of a body of text/event-stream. Only a numeric `code`, in the error or beside it, counts.
    """
    event = _FIRST_EVENT.match(begin)
    told = _object(event[1]) if event else {}
    error = told.get("error")
    for code in (error.get("code") if isinstance(error, dict) else None, told.get("code") if error else None):
        status = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9][0-9]", code) else code
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    return None


_T = TypeVar("_T")


def _decode(body: bytes | msgspec.Raw, kind: type[_T]) -> _T | None:
    """None for what is no JSON, or JSON of another shape."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty for everything else."""
    return (_decode(body, dict) or {}) if len(body) <= MAX_JSON_BYTES else {}
