"""What is counted and measured of requests: vLLM 0.32's histograms, and what the engine model does not count."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping

from llmgate.engines.profile import EngineProfile
from llmgate.sim.http_engine.job import Job
from llmgate.telemetry.histogram import Histogram, Shape

# Buckets: vLLM 0.32's page, tests/data/engines/vllm-0.32
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_FIRST = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)

_HISTOGRAMS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "request_prompt_tokens": ("Number of prefill tokens processed.", _COUNTS),
    "request_generation_tokens": ("Number of generation tokens processed.", _COUNTS),
    "request_max_num_generation_tokens": ("Histogram of maximum number of requested generation tokens.", _COUNTS),
    "request_params_n": ("Histogram of the n request parameter.", (1, 2, 5, 10, 20)),
    "request_params_max_tokens": ("Histogram of the max_tokens request parameter.", _COUNTS),
    "request_num_preemptions": ("Histogram of the number of times a request was preempted.", (1, 2, 3, 4, 5, 10, 20)),
    "request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        _COUNTS,
    ),
    "time_to_first_token_seconds": ("Histogram of time to first token in seconds.", _FIRST),
    "inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", _TOKEN),
    "request_time_per_output_token_seconds": ("Histogram of time_per_output_token_seconds per request.", _TOKEN),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", _LATENCY),
    "request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", _LATENCY),
    "request_inference_time_seconds": ("Histogram of time spent in RUNNING phase for request.", _LATENCY),
    "request_prefill_time_seconds": ("Histogram of time spent in PREFILL phase for request.", _LATENCY),
    "request_decode_time_seconds": ("Histogram of time spent in DECODE phase for request.", _LATENCY),
}

_SHAPES = {name: Shape(f"vllm:{name}", help, bounds) for name, (help, bounds) in _HISTOGRAMS.items()}

REASONS = ("stop", "length", "abort", "error", "repetition")
LIMITS = ("max_num_queued_reqs", "max_num_queued_tokens")


class Metrics:
    """Latencies are the wall's, as clients see them: the engine's divided by `pace`, its seconds a second, which may
    change. A time that such a change falls into is reckoned as if all of it had passed at the new one."""

    def __init__(self, profile: EngineProfile, model: str, pace: float = 1.0) -> None:
        self.profile = profile
        self.model = model
        self.created = time.time()  # Unix time, s
        self.histograms = {name: Histogram(shape) for name, shape in _SHAPES.items()}
        self.success = dict.fromkeys(REASONS, 0)
        self.rejections = dict.fromkeys(LIMITS, 0)
        self.pace = pace

    def first_token(self, after: float) -> None:
        self._observe("time_to_first_token_seconds", after / self.pace)

    def decoded(self, tokens: int, during: float) -> None:
        """So many tokens after the first, over so many seconds."""
        histogram = self.histograms["inter_token_latency_seconds"]
        each = during / tokens / self.pace
        histogram.counts[bisect_left(histogram.shape.bounds, each)] += tokens
        histogram.sum += each * tokens

    def rejected(self, reason: str) -> None:
        self.rejections[reason] += 1

    def finished(self, job: Job, at: float) -> None:
        """As it should: with stop or length."""
        request = job.request
        first = at if job.first is None else job.first
        scheduled = job.arrived if job.scheduled is None else job.scheduled
        self.success[job.reason] += 1
        seconds = {
            "e2e_request_latency_seconds": at - job.arrived,
            "request_queue_time_seconds": scheduled - job.arrived,
            "request_inference_time_seconds": at - scheduled,
            "request_prefill_time_seconds": first - scheduled,
            "request_decode_time_seconds": at - first,
        }
        if request.output_tokens > 1:
            seconds["request_time_per_output_token_seconds"] = (at - first) / (request.output_tokens - 1)
        for name, value in seconds.items():
            self._observe(name, value / self.pace)
        counts = {
            "request_prompt_tokens": request.prompt_tokens,
            "request_generation_tokens": request.output_tokens,
            "request_max_num_generation_tokens": request.output_tokens,
            "request_params_n": 1,
            "request_params_max_tokens": job.max_tokens,
            "request_num_preemptions": job.preemptions,
            "request_prefill_kv_computed_tokens": request.prompt_tokens - job.cached,
        }
        for name, count in counts.items():
            self._observe(name, count)

    def _observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)
