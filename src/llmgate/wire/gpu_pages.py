"""What exporters say of a node's GPUs: llmgate's own (`llmgate gpus --serve`), and NVIDIA's dcgm-exporter.

dcgm-exporter's fields and units are those of its default counters (https://github.com/NVIDIA/dcgm-exporter,
etc/default-counters.csv) and of DCGM's field identifiers (https://docs.nvidia.com/datacenter/dcgm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from llmgate.core.gpu import REASON_BITS, Gpu, GpuReading

MIB = 2**20
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Eight GPUs of dcgm-exporter's take 60 kB."""

Fields = Mapping[str, float]

_PREFIX = "DCGM_FI_"
_readings = msgspec.json.Decoder(list[GpuReading])


class NoGpuPage(ValueError):
    """The text says what is wrong with it."""


def write_readings(readings: Sequence[GpuReading]) -> bytes:
    return msgspec.json.encode(list(readings))


def parse_readings(page: bytes, node: str, at: float) -> list[GpuReading]:
    """Of either exporter's page. `at` is when it was asked for, on the reader's own clock. Raises NoGpuPage."""
    if len(page) > MAX_PAGE_BYTES:
        raise NoGpuPage(f"the page has more than {MAX_PAGE_BYTES} bytes")
    try:
        if page.lstrip().startswith(b"["):
            return [replace(each, gpu=replace(each.gpu, node=node), at=at) for each in _readings.decode(page)]
        return _of_dcgm(page.decode(), node, at)
    except (msgspec.DecodeError, ValueError) as error:
        raise NoGpuPage(f"neither llmgate's nor dcgm-exporter's: {error}") from None


def _of_dcgm(text: str, node: str, at: float) -> list[GpuReading]:
    found: dict[Gpu, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(_PREFIX):
            continue
        for sample in family.samples:
            found.setdefault(_gpu(sample.labels, node), {})[sample.name.removeprefix(_PREFIX)] = sample.value
    if not found:
        raise ValueError(f"it has no {_PREFIX}… in it")
    return [_reading(gpu, fields, at) for gpu, fields in found.items()]


def _gpu(labels: Mapping[str, str], node: str) -> Gpu:
    index, uuid = int(labels.get("gpu", "")), labels.get("UUID", "")
    name, instance = labels.get("modelName", "unknown"), labels.get("GPU_I_ID", "")
    if not instance:
        return Gpu(node, index, uuid, name)
    profile = labels.get("GPU_I_PROFILE", "")
    return Gpu(node, index, f"{uuid}/{instance}", f"{name} MIG {profile}".strip(), int(instance), _share(profile))


def _share(profile: str) -> float:
    """`1g.10gb` has one of seven compute slices."""
    slices, _, _ = profile.partition("g.")
    return int(slices) / 7 if slices.isdecimal() else 1.0


def _reading(gpu: Gpu, fields: Fields, at: float) -> GpuReading:
    def told(*names: str, times: float = 1.0) -> float | None:
        """The first of these that is there."""
        return next((fields[name] * times for name in names if name in fields), None)

    def counted(*names: str, times: float = 1.0) -> int | None:
        value = told(*names, times=times)
        return None if value is None else int(value)

    used, free = counted("DEV_FB_USED", times=MIB), counted("DEV_FB_FREE", times=MIB)
    reserved = counted("DEV_FB_RESERVED", times=MIB) or 0
    busy, reasons = told("DEV_GPU_UTIL", times=0.01), counted("DEV_CLOCKS_EVENT_REASONS", "DEV_CLOCK_THROTTLE_REASONS")
    pending, failed = counted("DEV_ROW_REMAP_PENDING"), counted("DEV_ROW_REMAP_FAILURE")
    more: dict[str, Any] = {}
    if xid := counted("DEV_XID_ERRORS"):
        more["xid"] = xid  # the last one, as long as the exporter remembers it
    return GpuReading(
        gpu,
        at,
        utilization=told("PROF_GR_ENGINE_ACTIVE") if busy is None else busy,  # the latter of MIG instances
        memory_utilization=told("DEV_MEM_COPY_UTIL", times=0.01),
        memory_used=used,
        memory_total=None if used is None or free is None else used + free + reserved,
        temperature=told("DEV_GPU_TEMP"),
        power=told("DEV_POWER_USAGE"),
        power_limit=told("DEV_POWER_MGMT_LIMIT"),
        sm_clock=told("DEV_SM_CLOCK", times=1e6),
        memory_clock=told("DEV_MEM_CLOCK", times=1e6),
        throttled=None if reasons is None else frozenset(name for bit, name in REASON_BITS.items() if reasons & bit),
        ecc_corrected=counted("DEV_ECC_SBE_AGG_TOTAL"),
        ecc_uncorrected=counted("DEV_ECC_DBE_AGG_TOTAL"),
        ecc_uncorrected_now=counted("DEV_ECC_DBE_VOL_TOTAL"),
        remap_pending=None if pending is None else bool(pending),
        remap_failed=None if failed is None else bool(failed),
        pcie_sent=counted("PROF_PCIE_TX_BYTES"),
        pcie_received=counted("PROF_PCIE_RX_BYTES"),
        **more,
    )
