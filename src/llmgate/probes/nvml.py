"""Reads the GPUs of this machine through NVIDIA's own library. Every call may block, and belongs into a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, TypeVar

import pynvml

from llmgate.core.gpu import FATAL_XIDS, REASON_BITS, Gpu, GpuReading

T = TypeVar("T")

GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
"""Errors after which there is no more to be had of a GPU until somebody sees to it. Any other says nothing of the GPU:
most often the gateway's own container may no longer look at it."""

LINKS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "board",
    pynvml.NVML_TOPOLOGY_SINGLE: "switch",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "switches",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "bridge",
    pynvml.NVML_TOPOLOGY_NODE: "node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "system",
}
"""What lies between two GPUs, nearest first; `nvidia-smi topo -m` calls them PSB, PIX, PXB, PHB, NODE and SYS."""


XID_SECONDS = 600.0
"""For how long a fatal error is held against a GPU. It needs a reset; by then it has had one, or shows otherwise."""


class NoDriver(Exception):
    """There is no NVIDIA driver here, or it does not work; the text says which."""


class Nvml:
    """Use it as a context; raises NoDriver on entry."""

    def __init__(self, node: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._known: dict[int, list[tuple[Gpu, Any]]] = {}  # by index: the GPU, or its instances, with their handles
        self._events: Any = None  # the driver's set of them, if it has such
        self._heard: set[int] = set()  # indices of the GPUs that are listened to
        self._xids: dict[int, tuple[int, float]] = {}  # by index: the last fatal one, and when it came

    def __enter__(self) -> Self:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NoDriver(str(error)) from None
        self._events = _told(pynvml.nvmlEventSetCreate)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()

    @property
    def driver(self) -> str:
        return _told(pynvml.nvmlSystemGetDriverVersion) or "?"

    def read(self) -> list[GpuReading]:
        """All that can be read. One that is lost is among them, and so is one that is no longer counted."""
        try:
            count: int = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return []
        self._hear_errors()
        readings: list[GpuReading] = []
        for index in range(count):
            readings += self._read_one(index)
        for index in self._known.keys() - range(count):
            readings += self._lost(index, "it is no longer there")
        return readings

    def topology(self) -> list[list[str]]:
        """What lies between each two GPUs (one of LINKS, or `nvlink`); `-` between one and itself, `?` if unknown."""
        handles = [_handle(index) for index in range(_told(pynvml.nvmlDeviceGetCount) or 0)]
        return [
            ["-" if row == column else _between(one, other) for column, other in enumerate(handles)]
            for row, one in enumerate(handles)
        ]

    def _read_one(self, index: int) -> list[GpuReading]:
        now = self._clock()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            members = self._known[index] = self._members(index, handle)
            self._listen_to(index, handle)
            xid, heard_at = self._xids.get(index, (None, now))
            if now - heard_at > XID_SECONDS:
                xid = None
            return [replace(_reading(gpu, handle, own, now), xid=xid) for gpu, own in members]
        except pynvml.NVMLError as error:
            return self._lost(index, str(error)) if error.value in GONE else []

    def _listen_to(self, index: int, handle: Any) -> None:
        if self._events is not None and index not in self._heard:
            self._heard.add(index)
            _told(pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, self._events)

    def _hear_errors(self) -> None:
        """What the driver has to say since the last time; it does not wait for more."""
        while self._events is not None and (event := _told(pynvml.nvmlEventSetWait_v2, self._events, 0)) is not None:
            index, xid = _told(pynvml.nvmlDeviceGetIndex, event.device), int(event.eventData)
            if index is not None and xid in FATAL_XIDS:
                self._xids[index] = xid, self._clock()

    def _lost(self, index: int, why: str) -> list[GpuReading]:
        now = self._clock()
        known = self._known.get(index) or [(Gpu(self._node, index, f"unknown-{index}", "unknown"), None)]
        return [GpuReading(gpu, now, lost=why) for gpu, _ in known]

    def _members(self, index: int, handle: Any) -> list[tuple[Gpu, Any]]:
        """The GPU itself, or, if it is cut up, its MIG instances."""
        name = pynvml.nvmlDeviceGetName(handle)
        mode = _told(pynvml.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return [(Gpu(self._node, index, pynvml.nvmlDeviceGetUUID(handle), name), handle)]
        members = []
        whole = _told(pynvml.nvmlDeviceGetAttributes, handle)
        for number in range(_told(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            own = _told(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            if own is None:
                continue  # no instance there
            uuid, own_name = pynvml.nvmlDeviceGetUUID(own), _told(pynvml.nvmlDeviceGetName, own) or name
            members.append((Gpu(self._node, index, uuid, own_name, number, _share(own, whole)), own))
        return members


def _share(instance: Any, whole: Any) -> float:
    attributes = _told(pynvml.nvmlDeviceGetAttributes, instance)
    if attributes is None or whole is None or not whole.multiprocessorCount:
        return 1.0
    return float(attributes.multiprocessorCount / whole.multiprocessorCount)


def _told(ask: Callable[..., T], *arguments: Any) -> T | None:
    """What the driver says; None where it has no answer. Raises NVMLError if the GPU has gone."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value in GONE:
            raise
        return None


def _handle(index: int) -> Any:
    """None if there is none to be had."""
    with suppress(pynvml.NVMLError):
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    return None


def _reading(gpu: Gpu, handle: Any, own: Any, now: float) -> GpuReading:
    """`handle` is the GPU's, `own` the instance's, which has memory of its own. Raises NVMLError if it has gone."""
    rates, memory = _told(pynvml.nvmlDeviceGetUtilizationRates, own), _told(pynvml.nvmlDeviceGetMemoryInfo, own)
    power, limit = _told(pynvml.nvmlDeviceGetPowerUsage, handle), _told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    sm = _told(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM)
    memory_clock = _told(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM)
    reasons = _told(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    remapped = _told(pynvml.nvmlDeviceGetRemappedRows, handle)
    sent = _told(pynvml.nvmlDeviceGetPcieThroughput, handle, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    received = _told(pynvml.nvmlDeviceGetPcieThroughput, handle, pynvml.NVML_PCIE_UTIL_RX_BYTES)
    over_links = _nvlink(handle)
    processes = _told(pynvml.nvmlDeviceGetComputeRunningProcesses, own)
    return GpuReading(
        gpu,
        now,
        utilization=None if rates is None else rates.gpu / 100,
        memory_utilization=None if rates is None else rates.memory / 100,
        memory_used=None if memory is None else memory.used,
        memory_total=None if memory is None else memory.total,
        temperature=_told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power=None if power is None else power / 1e3,
        power_limit=None if limit is None else limit / 1e3,
        sm_clock=None if sm is None else sm * 1e6,
        memory_clock=None if memory_clock is None else memory_clock * 1e6,
        throttled=None if reasons is None else frozenset(name for bit, name in REASON_BITS.items() if reasons & bit),
        ecc_corrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC),
        ecc_uncorrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC),
        ecc_uncorrected_now=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
        remap_pending=None if remapped is None else bool(remapped[2]),
        remap_failed=None if remapped is None else bool(remapped[3]),
        pcie_sent=None if sent is None else sent * 1000,
        pcie_received=None if received is None else received * 1000,
        nvlink_sent=over_links[0],
        nvlink_received=over_links[1],
        processes=None if processes is None else len(processes),
    )


def _ecc(handle: Any, kind: int, counter: int) -> int | None:
    return _told(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, counter)


def _nvlink(handle: Any) -> tuple[int | None, int | None]:
    """Bytes sent and received, of all links that there are; each has counters of its own, in KiB."""
    links = range(pynvml.NVML_NVLINK_MAX_LINKS)
    kinds = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
    values = _told(pynvml.nvmlDeviceGetFieldValues, handle, [(kind, link) for kind in kinds for link in links]) or ()
    sent, received = (
        [each.value.ullVal for each in values if each.fieldId == kind and each.nvmlReturn == pynvml.NVML_SUCCESS]
        for kind in kinds
    )
    return (sum(sent) * 1024 if sent else None), (sum(received) * 1024 if received else None)


def _between(one: Any, other: Any) -> str:
    if one is None or other is None:
        return "?"
    with suppress(pynvml.NVMLError):
        linked = _told(pynvml.nvmlDeviceGetP2PStatus, one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if linked == pynvml.NVML_P2P_STATUS_OK:
            return "nvlink"
        return LINKS.get(pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other), "?")
    return "?"
