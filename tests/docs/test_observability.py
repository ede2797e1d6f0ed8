from __future__ import annotations

import re
from dataclasses import replace
from random import Random
from typing import Any

from llmgate.core.blocks import BlockIndex
from llmgate.core.comparison import Comparison
from llmgate.core.gpu import Gpu, GpuReading
from llmgate.core.gpus import Gpus
from llmgate.core.types import EndpointMetrics, EngineCounts, Usage
from llmgate.gateway.gate import Gate, Limits
from llmgate.telemetry.access_log import AccessLog, DroppedCollector
from llmgate.telemetry.certificates import Certificate, CertificateCollector
from llmgate.telemetry.comparison import ComparisonCollector
from llmgate.telemetry.data_port import DataPortCollector
from llmgate.telemetry.debug_log import DebugLog
from llmgate.telemetry.gpus import GpuCollector
from llmgate.telemetry.kv_events import KvEventsCollector
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.pulse import Pulse
from llmgate.telemetry.tokenizers import TokenizerCollector
from llmgate.telemetry.tracing import Tracing
from tests.core.make import pool
from tests.docs.pages import read, rows
from tests.support.scrapes import page_of

PAGE = read("docs/observability.md")


def busy_metrics() -> str:
    """A scrape that has every series."""
    endpoints = pool(1)
    (endpoint,) = endpoints
    endpoint.metrics = EndpointMetrics(0.0, 1, 1, 0.5, 1000, max_running=8, counts=EngineCounts(4, 3, 2, 1))
    metrics = Metrics(endpoints, lambda: 0.0)
    usage = Usage(10, 10, cached_tokens=5)
    metrics.request_ended(
        "m", "e0", 200, stream=True, duration=1.0, ttft=0.1, overhead=0.001, usage=usage, estimated_prompt_tokens=9
    )
    metrics.objectives.ttft_predicted("m", "e0", 1.0)
    metrics.objectives.tpot_predicted("m", "e0", 1.0)
    metrics.objectives.slo_ended("m", "ttft", True)
    metrics.retried("e0", "connect_failed")
    metrics.rejected("model_not_found")
    metrics.decisions.of("round-robin").made(1, 1)
    log = AccessLog("/dev/null")
    metrics.registry.register(DroppedCollector(lambda: log))
    index = BlockIndex()
    index.open(0)
    index.count(0, "stored")
    index.lags[0] = 0.1
    metrics.registry.register(KvEventsCollector(endpoints, index))
    metrics.registry.register(Tracing())
    metrics.registry.register(DebugLog("/dev/null", ["0" * 12], most=1))
    metrics.registry.register(TokenizerCollector(lambda: {"m": "fastokens"}, {}))
    metrics.registry.register(CertificateCollector(lambda: [Certificate("server.tls", "", 0.0)]))
    metrics.registry.register(DataPortCollector(Gate(Limits()), lambda: 1))
    endpoint.spec = replace(endpoint.spec, gpus=[0])
    gpus = Gpus(endpoints, "n")
    numbers: dict[str, Any] = dict.fromkeys(GpuReading.__dataclass_fields__, 1)
    gpus.take_in("n", [GpuReading(**numbers | {"gpu": Gpu("n", 0, "u", "H100"), "lost": "", "throttled": {"idle"}})])
    metrics.registry.register(GpuCollector(gpus, endpoints))
    compared = Comparison("p", {}, lambda *_: None, Random(0), failed=lambda *_: None)
    metrics.registry.register(ComparisonCollector(lambda: compared))
    Pulse(metrics.registry, lambda _: None, lambda: 0.0)
    return page_of(metrics)


def test_the_metrics_and_their_labels_are_those_of_the_page() -> None:
    found: dict[str, set[str]] = {}
    series = r"^(llmgate_(?!\w+_created)\w+?)(?:_bucket|_count|_sum)?(?:\{(.*)\})? "
    for name, labels in re.findall(series, busy_metrics(), re.MULTILINE):
        found.setdefault(name, set()).update(set(re.findall(r"(\w+)=", labels)) - {"le"})
    table = {
        name.strip("`"): {label.strip() for label in labels.split(",")} - {"–"}
        for name, labels, *_ in rows(PAGE)
        if name.startswith("`llmgate_")
    }
    assert table == found
