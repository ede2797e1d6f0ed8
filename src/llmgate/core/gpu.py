"""What is known of one GPU, and whether it is well. Data and rules: who reads it is probes/nvml.py."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One that can be told from all others. A MIG instance is one, too: it has the index of its GPU, and a UUID of its
    own; `share` is the part of the GPU's multiprocessors that it has."""

    node: str
    index: int
    uuid: str
    name: str
    mig: int | None = None  # which instance of its GPU
    share: float = 1.0

    @property
    def label(self) -> str:
        """`0`, or `0:1` for the second instance of the first GPU."""
        return str(self.index) if self.mig is None else f"{self.index}:{self.mig}"


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at it. What the driver does not tell is None, never zero: of a MIG instance that is most of it."""

    gpu: Gpu
    at: float  # seconds on the monotonic clock of whoever looked
    lost: str = ""  # why it does not answer at all; then there is nothing else
    utilization: float | None = None  # 0 to 1: the part of the time in which a kernel ran
    memory_utilization: float | None = None  # 0 to 1: the part in which its memory was read or written
    memory_used: int | None = None  # bytes
    memory_total: int | None = None
    temperature: float | None = None  # °C
    power: float | None = None  # watts
    power_limit: float | None = None
    sm_clock: float | None = None  # Hz
    memory_clock: float | None = None
    throttled: frozenset[str] | None = None  # why its clocks are lower than they could be
    ecc_corrected: int | None = None  # in its life
    ecc_uncorrected: int | None = None
    ecc_uncorrected_now: int | None = None  # since the driver was loaded
    remap_pending: bool | None = None  # rows of its memory are to be replaced at the next reset
    remap_failed: bool | None = None
    pcie_sent: int | None = None  # bytes a second
    pcie_received: int | None = None
    nvlink_sent: int | None = None  # bytes, all links together, since the driver was loaded
    nvlink_received: int | None = None
    processes: int | None = None
    xid: int | None = None  # the driver's number of its last error, as long as whoever looked holds it against it


FATAL_XIDS = {
    48: "a double-bit memory error",
    64: "a row of its memory could not be replaced",
    74: "an NVLink error",
    79: "it has fallen off the bus",
    95: "an uncontained memory error",
    119: "its system processor does not answer",
    120: "its system processor has failed",
    140: "an unrecovered memory error",
}
"""Errors after which NVIDIA's catalogue (https://docs.nvidia.com/deploy/xid-errors/) wants the GPU or the machine to be
reset. Others are the application's own, or are contained in it."""

REASON_BITS = {
    0x1: "idle",
    0x2: "clocks_setting",
    0x4: "power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
    0x100: "display",
}
"""NVML's nvmlClocksEventReason… (nvml.h), which DCGM hands on."""

SLOWED = frozenset({"sw_thermal", "hw_thermal", "hw_slowdown"})
"""Reasons of `throttled` for which clocks fall far: heat, and the hardware's own protection, which halves them at the
least. Others are settings, a power limit, or idleness."""


class GpuState(enum.Enum):
    OK = "ok"
    DEGRADED = "degraded"  # slower, or about to fail: it should get less
    FAILED = "failed"  # nothing should be sent there


RANK = {GpuState.OK: 0, GpuState.DEGRADED: 1, GpuState.FAILED: 2}


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """When it is not well. `hot` is where data centre GPUs begin to slow down (NVIDIA's threshold of slowdown is 87 to
    90 °C on an A100 and an H100).

    `full` is off: vLLM and SGLang take 90 % of the memory at their start, so that it says nothing of their load.
    `ecc_total`: corrected and uncorrected errors in its life, off as well, for what is many depends on the model.
    `fall` readings in a row that show the same make it so, `rise` good ones make it well again; what is lost, or has
    had a fatal XID, is so at once.
    """

    hot: float = 85.0  # °C
    full: float | None = None  # 0 to 1
    ecc_total: int | None = None
    fall: int = 3
    rise: int = 10


class GpuHealth:
    """Follows one GPU's readings."""

    __slots__ = ("_clean", "_seen", "_worse", "policy", "reason", "state")

    def __init__(self, policy: GpuPolicy = GpuPolicy()) -> None:
        self.policy = policy
        self.state = GpuState.OK
        self.reason = ""
        self._clean = 0  # readings in a row that are better than `state`
        self._seen = 0  # in a row that show `_worse`
        self._worse = GpuState.OK

    def observe(self, reading: GpuReading) -> bool:
        """Whether the state is another one now."""
        shown, reason = self.judge(reading)
        if RANK[shown] > RANK[self.state]:
            self._clean = 0
            self._seen = self._seen + 1 if shown is self._worse else 1
            self._worse = shown
            if self._seen >= self.policy.fall or reading.lost or reading.xid in FATAL_XIDS:
                return self._enter(shown, reason)
            return False
        self._seen, self._worse = 0, GpuState.OK
        if shown is self.state:
            self._clean = 0
            self.reason = reason
            return False
        self._clean += 1
        return self._clean >= self.policy.rise and self._enter(shown, reason)

    def judge(self, reading: GpuReading) -> tuple[GpuState, str]:
        """What one reading shows by itself, and why."""
        policy = self.policy
        if reading.lost:
            return GpuState.FAILED, reading.lost
        if reading.xid in FATAL_XIDS:
            return GpuState.FAILED, f"XID {reading.xid}: {FATAL_XIDS[reading.xid]}"
        if reading.ecc_uncorrected_now:
            errors = reading.ecc_uncorrected_now
            return GpuState.FAILED, f"{errors} uncorrectable memory errors since the driver was loaded"
        if reading.remap_failed:
            return GpuState.FAILED, "rows of its memory could not be replaced"
        if reading.remap_pending:
            return GpuState.DEGRADED, "rows of its memory are to be replaced: it needs a reset"
        if reading.temperature is not None and reading.temperature >= policy.hot:
            return GpuState.DEGRADED, f"{reading.temperature:g} °C"
        if reading.throttled and (reasons := reading.throttled & SLOWED):
            return GpuState.DEGRADED, f"slowed down: {', '.join(sorted(reasons))}"
        if policy.full is not None and reading.memory_used is not None and reading.memory_total:
            used = reading.memory_used / reading.memory_total
            if used >= policy.full:
                return GpuState.DEGRADED, f"{used:.0%} of its memory is in use"
        if policy.ecc_total is not None:
            errors = (reading.ecc_corrected or 0) + (reading.ecc_uncorrected or 0)
            if errors >= policy.ecc_total:
                return GpuState.DEGRADED, f"{errors} memory errors in its life"
        return GpuState.OK, ""

    def _enter(self, state: GpuState, reason: str) -> bool:
        self.state, self.reason = state, reason
        self._clean = self._seen = 0
        self._worse = GpuState.OK
        return True
