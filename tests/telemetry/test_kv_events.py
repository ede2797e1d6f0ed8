"""Rules of telemetry/kv_events.py."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from llmgate.core.blocks import BlockIndex
from llmgate.telemetry.kv_events import KvEventsCollector
from tests.core import make


def test_events_blocks_and_lag_are_shown_of_endpoints_that_tell() -> None:
    pool, index = make.pool(2), BlockIndex()
    index.store(index.open(0), [1, 2], [10, 20])
    index.store(index.open(0), [1], [10])
    index.count(0, "stored", 2)
    index.lags[0] = 0.25
    registry = CollectorRegistry()
    registry.register(KvEventsCollector(pool, index))
    assert registry.get_sample_value("llmgate_kv_events_total", {"endpoint": "e0", "kind": "stored"}) == 2
    assert registry.get_sample_value("llmgate_kv_index_blocks", {"endpoint": "e0"}) == 3
    assert registry.get_sample_value("llmgate_kv_event_lag_seconds", {"endpoint": "e0"}) == 0.25
    assert registry.get_sample_value("llmgate_kv_index_blocks", {"endpoint": "e1"}) is None


def test_one_source_of_what_an_endpoint_holds_is_shown() -> None:
    pool, index = make.pool(3), BlockIndex()
    for slot, complete in ((0, True), (1, False)):
        source = index.open(slot)
        index.clear(source, complete=complete)
        index.set_live(source, live=True)
        index.set_block_tokens(source, 16)
    registry = CollectorRegistry()
    registry.register(KvEventsCollector(pool, index))
    shown = {
        (name, source)
        for name in ("e0", "e1", "e2")
        for source in ("events", "both", "learnt")
        if registry.get_sample_value("llmgate_prefix_source", {"endpoint": name, "source": source})
    }
    assert shown == {("e0", "events"), ("e1", "both"), ("e2", "learnt")}
