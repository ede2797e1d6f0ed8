"""The engines that llmgate knows: how to recognise each, where to ask it, and what its gauges are called.

A new engine is one entry of `ENGINES`. Pure: callers fetch the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmgate.core.types import Kind

GENERIC = "openai"
"""An OpenAI-compatible server of unknown make: it is routed to by the gateway's own accounting only."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where one number stands on a metrics page: a gauge's value, or a label's value on an info series."""

    metric: str
    label: str | None = None


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
    awake: tuple[str, str, str] | None = None  # a gauge, its label, its value there: such a series is 0 while it sleeps
    capacity_page: tuple[str, Callable[[bytes], int | None]] | None = None  # asked when metrics do not tell
    ignores_disconnects: bool = False  # works on for a client that has left, unless it streams
    takes_stream_options: bool = True  # a request with `stream_options` is not refused
    lacks: frozenset[Kind] = frozenset()  # kinds of request that it is known to have no path for


def product(*factors: object) -> int | None:
    """Of positive whole numbers; None when any of them is something else."""
    total = 1
    for factor in factors:
        if not isinstance(factor, int) or isinstance(factor, bool) or factor <= 0:
            return None
        total *= factor
    return total


def parse_props(body: bytes) -> int | None:
    """KV capacity in tokens from llama.cpp's /props, where it is stated per slot."""
    props = _object(body)
    settings = props.get("default_generation_settings")
    return product(props.get("total_slots"), settings.get("n_ctx") if isinstance(settings, dict) else None)


def parse_tgi_info(body: bytes) -> int | None:
    """KV capacity in tokens from TGI's /info; releases after 2.0 do not tell."""
    return product(_object(body).get("max_batch_total_tokens"))


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
    ),
    "tgi": EngineKind(
        prefix="tgi_",
        running=("tgi_batch_current_size",),
        waiting=("tgi_queue_size",),
        capacity_page=("/info", parse_tgi_info),
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
        capacity_page=("/props", parse_props),
        ignores_disconnects=True,
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


def parse_models(body: bytes) -> ModelList | None:
    """None when the body is not OpenAI's list of models. Entries without a printable `id` are left out."""
    data = _object(body).get("data")
    if not isinstance(data, list):
        return None
    cards = [card for card in data if isinstance(card, dict)]
    ids = [card.get("id") for card in cards]
    owners = [card.get("owned_by") for card in cards]
    return ModelList(
        # they are shown in logs and on pages: no control characters
        tuple(dict.fromkeys(name for name in ids if isinstance(name, str) and name and name.isprintable())),
        tuple(dict.fromkeys(owner for owner in owners if isinstance(owner, str))),
        {card["id"]: card["parent"] for card in cards if _is_name(card.get("id")) and _is_name(card.get("parent"))},
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


# Detection: each clue is a path and what a 200 answer to it proves. They are tried in this order; then the Server
# header counts, and else the engine is GENERIC, never a guess.

_PREFIXES = "|".join(f"(?P<{name}>{kind.prefix})" for name, kind in ENGINES.items() if kind.prefix)
_METRIC = re.compile(f"(?m)^(?:# (?:HELP|TYPE) )?(?:{_PREFIXES})".encode())


def engine_of_metrics(page: bytes) -> str | None:
    """By the prefix of the first known metric on the page."""
    found = _METRIC.search(page)
    return found.lastgroup if found else None


def engine_of_models(body: bytes) -> str | None:
    """By `owned_by`."""
    listed = parse_models(body)
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


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty for everything else."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
