"""/metrics as vLLM 0.32 writes it: the same names, labels and buckets.

Written by hand like the gateway's own (llmgate.telemetry): prometheus_client takes some 5 ms for a page of this length,
and all streams would stand still for that time at each scrape. Not there are what nothing in the model stands for
(FLOPs, multi-modal caches) and `vllm:iteration_tokens_total`: the model runs many steps at once, uncounted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import Gauges
from llmgate.sim.http_engine.metrics import LIMITS, REASONS, Metrics
from llmgate.telemetry.exposition import header, labels
from llmgate.telemetry.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("awake", "weights_offloaded", "discard_all")
_NO_CACHE_SOURCES = ("host", "p2p", "disk", "external_unspecified")


@dataclass(frozen=True, slots=True)
class Adapters:
    """LoRA adapters of requests, at one time."""

    max_lora: int
    running: Iterable[str]
    waiting: Iterable[str]


def metrics_page(metrics: Metrics, gauges: Gauges, sleep_state: str, adapters: Adapters | None = None) -> bytes:
    own = labels(engine="0", model_name=metrics.model)
    lines = [
        *_gauge_lines(own, gauges, sleep_state),
        *_counter_lines(own, gauges, metrics),
        *(line for histogram in metrics.histograms.values() for line in _histogram_lines(own, histogram, metrics)),
        *_cache_config(metrics.profile),
        *_lora_lines(adapters),
        *_metric("process_start_time_seconds", "gauge", "Start time of the process.", [("", metrics.created)]),
    ]
    return "".join(lines).encode()


def _gauge_lines(own: str, gauges: Gauges, sleep_state: str) -> Iterator[str]:
    waiting = float(gauges.waiting)
    yield from _metric(
        "vllm:num_requests_running",
        "gauge",
        "Number of requests in model execution batches.",
        [(own, float(gauges.running))],
    )
    yield from _metric(
        "vllm:num_requests_waiting",
        "gauge",
        "Number of requests waiting to be processed.",
        [(own, waiting)],
    )
    yield from _metric(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Number of waiting requests by reason.",
        [(f'{own},reason="capacity"', waiting), (f'{own},reason="deferred"', 0.0)],
    )
    yield from _metric(
        "vllm:engine_sleep_state",
        "gauge",
        "Engine sleep state; awake = 0 means engine is sleeping.",
        [(f'{own},sleep_state="{state}"', float(state == sleep_state)) for state in STATES],
    )
    yield from _metric(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "KV-cache usage. 1 means 100 percent usage.",
        [(own, gauges.kv_usage)],
    )


def _counter_lines(own: str, gauges: Gauges, metrics: Metrics) -> Iterator[str]:
    computed = float(gauges.prompt_tokens - gauges.prefix_hits)
    hits = float(gauges.prefix_hits)
    by_source = [("local_compute", computed), ("local_cache_hit", hits), ("external_kv_transfer", 0.0)]
    cached_by = [("device", hits), *((source, 0.0) for source in _NO_CACHE_SOURCES)]
    model_only = labels(model_name=metrics.model)
    counters: list[tuple[str, str, list[tuple[str, float]]]] = [
        (
            "prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            [(own, float(gauges.prefix_queries))],
        ),
        ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", [(own, hits)]),
        ("external_prefix_cache_queries", "External prefix cache queries, in tokens.", [(own, 0.0)]),
        ("external_prefix_cache_hits", "External prefix cache hits, in tokens.", [(own, 0.0)]),
        (
            "num_preemptions",
            "Cumulative number of preemption from the engine.",
            [(own, float(gauges.preemptions))],
        ),
        ("prompt_tokens", "Number of prefill tokens processed.", [(own, float(gauges.prompt_tokens))]),
        (
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            [(f'{own},source="{source}"', value) for source, value in by_source],
        ),
        ("prompt_tokens_cached", "Number of cached prompt tokens (local + external).", [(own, hits)]),
        (
            "prompt_tokens_cached_by_source",
            "Prefix-cache hit tokens by the cache tier that supplied them.",
            [(f'{own},source="{source}"', value) for source, value in cached_by],
        ),
        ("generation_tokens", "Number of generation tokens processed.", [(own, float(gauges.generated_tokens))]),
        (
            "request_success",
            "Count of successfully processed requests.",
            [(f'{own},finished_reason="{reason}"', float(metrics.success[reason])) for reason in REASONS],
        ),
        (
            "admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            [(f'{model_only},reason="{reason}"', float(metrics.rejections[reason])) for reason in LIMITS],
        ),
    ]
    for name, help, series in counters:
        yield from _metric(f"vllm:{name}_total", "counter", help, series)
        created = [(each, metrics.created) for each, _ in series]
        yield from _metric(f"vllm:{name}_created", "gauge", help, created)


def _histogram_lines(own: str, histogram: Histogram, metrics: Metrics) -> Iterator[str]:
    name = histogram.shape.name
    yield f"# HELP {name} {histogram.shape.help}\n# TYPE {name} histogram\n"
    head = f'{name}_bucket{{{own},le="'
    counts = list(accumulate(histogram.counts))
    for tail, count in zip(histogram.shape.tails, counts, strict=True):
        yield f"{head}{tail}{float(count)}\n"
    yield f"{name}_count{{{own}}} {float(counts[-1])}\n{name}_sum{{{own}}} {histogram.sum}\n"
    yield from _metric(f"{name}_created", "gauge", histogram.shape.help, [(own, metrics.created)])


def _cache_config(profile: EngineProfile) -> Iterator[str]:
    """The labels of vLLM's that tell something here; it has more, most of them `None`."""
    tokens = profile.kv_tokens // profile.block_tokens * profile.block_tokens
    block = str(profile.block_tokens)
    shown = labels(
        block_size=block,
        cache_dtype="auto",
        effective_attention_block_size=block,
        enable_prefix_caching="True",
        engine="0",
        gpu_memory_utilization="0.92",
        hash_block_size="None",
        kv_cache_max_concurrency=str(tokens / profile.max_model_len),
        kv_cache_size_tokens=str(tokens),
        num_cpu_blocks="None",
        num_gpu_blocks=str(profile.kv_tokens // profile.block_tokens),
        num_gpu_blocks_override="None",
        prefix_caching_hash_algo="xxhash",
        sliding_window="None",
    )
    help = "Information of the LLMEngine CacheConfig"
    yield from _metric("vllm:cache_config_info", "gauge", help, [(shown, 1.0)])


def _metric(name: str, kind: str, help: str, series: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield header(name, kind, help, openmetrics=False)
    for each, value in series:
        yield f"{name}{{{each}}} {value}\n" if each else f"{name} {value}\n"


def _lora_lines(adapters: Adapters | None) -> Iterator[str]:
    """The value is a time; the newest series counts. There is none before a request with an adapter has run."""
    if adapters is not None:
        shown = labels(
            max_lora=str(adapters.max_lora),
            waiting_lora_adapters=",".join(sorted(adapters.waiting)),
            running_lora_adapters=",".join(sorted(adapters.running)),
        )
        yield from _metric(
            "vllm:lora_requests_info", "gauge", "Running stats on lora requests.", [(shown, time.time())]
        )
