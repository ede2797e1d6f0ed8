"""What became of the engines' KV events, read from the block index at the scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmgate.core.blocks import BlockIndex
from llmgate.core.pool import EndpointPool

SOURCES = ("events", "both", "learnt")


class KvEventsCollector(Collector):
    def __init__(self, pool: EndpointPool, index: BlockIndex) -> None:
        self._pool = pool
        self._index = index

    def collect(self) -> Iterator[Metric]:
        index = self._index
        events = CounterMetricFamily(
            "llmgate_kv_events",
            "Blocks that the endpoint's KV events told of (stored, removed, left_out), other events (cleared, passed,"
            " unknown_model) and what befell them (gap, replay, restart, garbage).",
            labels=["endpoint", "kind"],
        )
        blocks = GaugeMetricFamily(
            "llmgate_kv_index_blocks", "Blocks that the endpoint tells it has in its KV cache.", labels=["endpoint"]
        )
        lag = GaugeMetricFamily(
            "llmgate_kv_event_lag_seconds",
            "Age of the last KV event when it was dealt with, by the engine's clock and the gateway's.",
            labels=["endpoint"],
        )
        source = GaugeMetricFamily(
            "llmgate_prefix_source",
            "1 for what says which prefixes the endpoint holds: its KV events, what was routed there (learnt), or both,"
            " while blocks from before the first event may be there.",
            labels=["endpoint", "source"],
        )
        for endpoint in self._pool:
            slot, name = endpoint.slot, endpoint.name
            for kind, number in index.counts.get(slot, {}).items():
                events.add_metric([name, kind], number)
            if sources := index.sources(slot):
                blocks.add_metric([name], sum(len(each.keys) for each in sources))
            if slot in index.lags:
                lag.add_metric([name], index.lags[slot])
            now = "learnt" if not index.live(slot) else "events" if index.complete(slot) else "both"
            for each in SOURCES:
                source.add_metric([name, each], each == now)
        yield from (events, blocks, lag, source)
