"""What clients' connections take of the gateway, at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Held(Protocol):
    @property
    def in_flight(self) -> Collection[object]: ...

    @property
    def buffered(self) -> int:
        """Bytes of request bodies."""
        ...

    @property
    def stalled(self) -> int:
        """Clients cut off so far."""
        ...


class DataPortCollector(Collector):
    def __init__(self, held: Held, connections: Callable[[], int]) -> None:
        self._held = held
        self._connections = connections

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for name, help, value in (
            ("llmgate_client_connections", "Connections of clients.", self._connections()),
            ("llmgate_requests_in_flight", "Requests being served.", len(self._held.in_flight)),
            ("llmgate_buffered_request_bytes", "Of request bodies that are being read or served.", self._held.buffered),
        ):
            yield GaugeMetricFamily(name, help, value)
        yield CounterMetricFamily(
            "llmgate_stalled_clients", "Clients cut off since they did not take their answer.", self._held.stalled
        )
