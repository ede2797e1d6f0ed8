from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from llmgate.core.gpu import Gpu, GpuHealth, GpuReading, GpuState
from llmgate.wire.gpu_pages import MAX_PAGE_BYTES, NoGpuPage, parse_readings, write_readings

LABELS = 'gpu="0",UUID="GPU-1",pci_bus_id="00000000:04:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3"'
FIELDS = {
    "DEV_SM_CLOCK": 1980,
    "DEV_MEM_CLOCK": 2619,
    "DEV_GPU_TEMP": 61,
    "DEV_POWER_USAGE": 512.3,
    "DEV_GPU_UTIL": 87,
    "DEV_MEM_COPY_UTIL": 40,
    "DEV_XID_ERRORS": 0,
    "DEV_FB_FREE": 10_000,
    "DEV_FB_USED": 70_000,
    "DEV_FB_RESERVED": 559,
    "DEV_ECC_SBE_AGG_TOTAL": 3,
    "DEV_ECC_DBE_AGG_TOTAL": 0,
    "DEV_ECC_DBE_VOL_TOTAL": 0,
    "DEV_ROW_REMAP_FAILURE": 0,
    "DEV_CLOCKS_EVENT_REASONS": 4,
    "PROF_PCIE_TX_BYTES": 1_200_000,
    "PROF_PCIE_RX_BYTES": 800_000,
}


def dcgm_page(**more: float) -> str:
    return "".join(
        f"# HELP DCGM_FI_{name} As documented.\n# TYPE DCGM_FI_{name} gauge\nDCGM_FI_{name}{{{LABELS}}} {value}\n"
        for name, value in (FIELDS | more).items()
    )


def dcgm(**more: float) -> GpuReading:
    (reading,) = parse_readings(dcgm_page(**more).encode(), "gpu-box", 7.0)
    return reading


def test_dcgm_exporters_page_in_our_units() -> None:
    assert dcgm() == GpuReading(
        Gpu("gpu-box", 0, "GPU-1", "NVIDIA H100 80GB HBM3"),
        7.0,
        utilization=0.87,
        memory_utilization=0.4,
        memory_used=70_000 * 2**20,
        memory_total=80_559 * 2**20,
        temperature=61,
        power=512.3,
        sm_clock=1.98e9,
        memory_clock=2.619e9,
        throttled=frozenset({"power_cap"}),
        ecc_corrected=3,
        ecc_uncorrected=0,
        ecc_uncorrected_now=0,
        remap_failed=False,
        pcie_sent=1_200_000,
        pcie_received=800_000,
    )


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ({"DEV_GPU_TEMP": 91}, GpuState.DEGRADED, "91 °C"),
        ({"DEV_ECC_DBE_VOL_TOTAL": 2}, GpuState.FAILED, "2 uncorrectable memory errors since the driver was loaded"),
        ({"DEV_ROW_REMAP_FAILURE": 1}, GpuState.FAILED, "rows of its memory could not be replaced"),
        ({"DEV_XID_ERRORS": 79}, GpuState.FAILED, "XID 79: it has fallen off the bus"),
        ({"DEV_XID_ERRORS": 31}, GpuState.OK, ""),  # an application's own
        ({"DEV_CLOCKS_EVENT_REASONS": 0x40}, GpuState.DEGRADED, "slowed down: hw_thermal"),
    ],
)
def test_the_same_rules_hold_for_what_it_says(said: dict[str, float], state: GpuState, reason: str) -> None:
    assert GpuHealth().judge(dcgm(**said)) == (state, reason)


def test_instances_are_gpus_of_their_own_with_their_share() -> None:
    labels = f'{LABELS},GPU_I_PROFILE="3g.40gb",GPU_I_ID="2"'
    page = f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{labels}}} 0.5\nDCGM_FI_DEV_FB_USED{{{labels}}} 100\n"
    (reading,) = parse_readings(page.encode(), "n", 0.0)
    assert (reading.gpu.label, reading.utilization) == ("0:2", 0.5)
    assert reading.gpu.share == pytest.approx(3 / 7)
    assert (reading.memory_used, reading.memory_total) == (100 * 2**20, None)


def test_our_own_page_loses_nothing_but_is_of_the_node_and_moment_of_whoever_reads_it() -> None:
    numbers: dict[str, Any] = {each.name: 1 for each in fields(GpuReading)}
    numbers |= {"gpu": Gpu("there", 1, "GPU-2", "H100", 0, 0.5), "lost": "why", "throttled": frozenset({"idle"})}
    numbers |= {"remap_pending": True, "remap_failed": False}
    reading = GpuReading(**numbers)
    (read,) = parse_readings(write_readings([reading]), "there", 9.0)
    assert read == GpuReading(**numbers | {"at": 9.0})
    assert parse_readings(write_readings([reading]), "here", 9.0)[0].gpu.node == "here"
    assert parse_readings(b"[]", "here", 9.0) == []


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>",
        b"{}",
        b"[1]",
        b'[{"gpu": {}}]',
        b"up 1\n",
        b"DCGM_FI_DEV_GPU_TEMP 3\n",
        b'DCGM_FI_DEV_GPU_TEMP{gpu="x"} 3\n',
        b"\xff\xfe",
        b"DCGM_FI_DEV_GPU_TEMP{",
        b"x" * (MAX_PAGE_BYTES + 1),
    ],
)
def test_what_is_no_such_page_is_an_error_in_words(page: bytes) -> None:
    with pytest.raises(NoGpuPage):
        parse_readings(page, "n", 0.0)
