"""Gauges of GPUs, from their last readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from llmgate.core.gpu import GpuReading, GpuState
from llmgate.core.gpus import Gpus
from llmgate.core.pool import EndpointPool

LABELS = ["node", "gpu", "uuid"]

GAUGES: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
    ("utilization_ratio", "Part of the time in which a kernel ran, 0 to 1.", lambda r: r.utilization),
    (
        "memory_utilization_ratio",
        "Part of the time in which its memory was read or written, 0 to 1.",
        lambda r: r.memory_utilization,
    ),
    ("memory_used_bytes", "Memory in use; engines that preallocate take most of it at once.", lambda r: r.memory_used),
    ("memory_total_bytes", "Memory that there is.", lambda r: r.memory_total),
    ("temperature_celsius", "Temperature of the GPU.", lambda r: r.temperature),
    ("power_watts", "Power that it draws.", lambda r: r.power),
    ("power_limit_watts", "Power that it may draw.", lambda r: r.power_limit),
    ("processes", "Processes that compute on it.", lambda r: r.processes),
)


class GpuCollector(Collector):
    def __init__(self, gpus: Gpus, pool: EndpointPool) -> None:
        self._gpus = gpus
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        watched = list(self._gpus)
        if not watched:
            return
        for name, help, read in GAUGES:
            family = GaugeMetricFamily(f"llmgate_gpu_{name}", help, labels=LABELS)
            for reading, _ in watched:
                if (value := read(reading)) is not None:
                    family.add_metric(_labels(reading), value)
            yield family
        clock = GaugeMetricFamily("llmgate_gpu_clock_hertz", "Clock.", labels=[*LABELS, "clock"])
        throttled = GaugeMetricFamily(
            "llmgate_gpu_throttled", "1 for each reason why its clocks are lower than they could be.",
            labels=[*LABELS, "reason"],
        )  # fmt: skip
        pcie = GaugeMetricFamily(
            "llmgate_gpu_pcie_bytes_per_second", "Traffic over PCIe.", labels=[*LABELS, "direction"]
        )
        nvlink = CounterMetricFamily(
            "llmgate_gpu_nvlink_bytes", "Traffic over NVLink, all links together.", labels=[*LABELS, "direction"]
        )
        ecc = CounterMetricFamily("llmgate_gpu_ecc_errors", "Memory errors in its life.", labels=[*LABELS, "kind"])
        state = GaugeMetricFamily(
            "llmgate_gpu_state", "1 for the state that it is in: ok, degraded, failed.", labels=[*LABELS, "state"]
        )
        xid = GaugeMetricFamily("llmgate_gpu_xid", "Number of its last XID error, while it counts.", labels=LABELS)
        for reading, health in watched:
            labels = _labels(reading)
            _add(clock, labels, sm=reading.sm_clock, memory=reading.memory_clock)
            _add(throttled, labels, **dict.fromkeys(sorted(reading.throttled or ()), 1.0))
            _add(pcie, labels, tx=reading.pcie_sent, rx=reading.pcie_received)
            _add(nvlink, labels, tx=reading.nvlink_sent, rx=reading.nvlink_received)
            _add(ecc, labels, corrected=reading.ecc_corrected, uncorrected=reading.ecc_uncorrected)
            _add(state, labels, **{each.value: float(health.state is each) for each in GpuState})
            if reading.xid is not None:
                xid.add_metric(labels, reading.xid)
        yield from (clock, throttled, pcie, nvlink, ecc, state, xid)
        info = GaugeMetricFamily(
            "llmgate_gpu_endpoint_info", "1 for each GPU that an endpoint runs on.", labels=[*LABELS, "endpoint"]
        )
        for endpoint in self._pool:
            for reading, _ in self._gpus.of(endpoint):
                info.add_metric([*_labels(reading), endpoint.name], 1)
        yield info


def _labels(reading: GpuReading) -> list[str]:
    return [reading.gpu.node, reading.gpu.label, reading.gpu.uuid]


def _add(family: GaugeMetricFamily | CounterMetricFamily, labels: list[str], **values: float | None) -> None:
    for name, value in values.items():
        if value is not None:
            family.add_metric([*labels, name], value)
