"""Through the real binding, from a library that plays the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgate.core.gpu import Gpu
from llmgate.probes.nvml import XID_SECONDS, NoDriver, Nvml
from tests.support.nvml import H100, Driver


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path / "gpus", monkeypatch)


def test_everything_that_a_healthy_gpu_says_is_read(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1"})
    with Nvml("here", lambda: 7.0) as nvml:
        assert nvml.driver == "570.1"
        (reading,) = nvml.read()
    assert reading.gpu == Gpu("here", 0, "GPU-1", "NVIDIA H100 80GB HBM3")
    assert (reading.at, reading.lost, reading.temperature, reading.processes) == (7.0, "", 61, 2)
    assert (reading.utilization, reading.memory_utilization) == (0.87, 0.4)
    assert (reading.memory_used, reading.memory_total) == (72_000_000_000, 85_899_345_920)
    assert (reading.power, reading.power_limit) == (512.3, 700.0)
    assert (reading.sm_clock, reading.memory_clock) == (1.98e9, 2.619e9)
    assert reading.throttled == frozenset({"power_cap"})
    assert (reading.ecc_corrected, reading.ecc_uncorrected, reading.ecc_uncorrected_now) == (3, 0, 0)
    assert (reading.remap_pending, reading.remap_failed) == (False, False)
    assert (reading.pcie_sent, reading.pcie_received) == (1_200_000, 800_000)


def test_what_a_gpu_does_not_tell_is_unknown_and_not_zero(driver: Driver) -> None:
    driver.says(gpu0={"name": "a small one", "uuid": "GPU-1"})
    with Nvml("here") as nvml:
        (reading,) = nvml.read()
    assert reading.lost == ""
    assert [reading.temperature, reading.memory_used, reading.ecc_corrected, reading.throttled] == [None] * 4


def test_a_gpu_that_falls_off_the_bus_is_lost_and_the_others_are_read(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    with Nvml("here") as nvml:
        nvml.read()
        driver.says(gpu0={"lost": 1})
        first, second = nvml.read()
        assert (first.gpu.uuid, first.lost, first.temperature) == ("GPU-1", "GPU is lost", None)
        assert (second.gpu.uuid, second.lost, second.temperature) == ("GPU-2", "", 61)
        driver.forgets("0", "lost")
        assert [reading.lost for reading in nvml.read()] == ["", ""]


def test_a_gpu_that_was_lost_before_it_was_first_seen_is_told_by_its_index(driver: Driver) -> None:
    driver.says(gpu0={"lost": 1}, gpu1={**H100, "uuid": "GPU-2"})
    with Nvml("here") as nvml:
        first, second = nvml.read()
        assert nvml.topology() == [["-", "?"], ["?", "-"]]
    assert (first.gpu.index, first.gpu.uuid, first.lost) == (0, "unknown-0", "GPU is lost")
    assert second.lost == ""


def test_a_gpu_that_is_no_longer_counted_is_lost(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    with Nvml("here") as nvml:
        nvml.read()
        driver.removes("1")
        assert [(each.gpu.uuid, each.lost) for each in nvml.read()] == [
            ("GPU-1", ""),
            ("GPU-2", "it is no longer there"),
        ]


def test_a_gpu_that_may_not_be_looked_at_is_not_taken_for_lost(driver: Driver) -> None:
    """A container may lose its permission while engines in others work on."""
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    with Nvml("here") as nvml:
        nvml.read()
        driver.says(gpu0={"forbidden": 1})
        assert [each.gpu.uuid for each in nvml.read()] == ["GPU-2"]


def test_a_gpu_in_slices_is_its_instances_with_their_shares(driver: Driver) -> None:
    driver.says(
        gpu0={**H100, "uuid": "GPU-1", "mig": 1, "instances": 7, "multiprocessors": 98},
        gpu0_0={"uuid": "MIG-a", "multiprocessors": 42, "memory_total": 20_000, "memory_used": 5_000},
        gpu0_3={"uuid": "MIG-d", "multiprocessors": 14},
    )
    with Nvml("here") as nvml:
        first, second = nvml.read()
    assert [(each.gpu.label, each.gpu.uuid, round(each.gpu.share, 3)) for each in (first, second)] == [
        ("0:0", "MIG-a", 0.429),
        ("0:3", "MIG-d", 0.143),
    ]
    assert (first.memory_used, first.memory_total) == (5_000, 20_000)
    assert second.memory_total is None
    assert first.temperature == second.temperature == 61  # that of the GPU
    assert first.utilization is None


def test_what_lies_between_two_gpus(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "a"}, gpu1={**H100, "uuid": "b", "topology": 50}, gpu2={"uuid": "c", "nvlink": 0})
    with Nvml("here") as nvml:
        assert nvml.topology() == [["-", "switch", "switch"], ["system", "-", "system"], ["nvlink", "nvlink", "-"]]


def test_without_a_driver_it_says_so(driver: Driver) -> None:
    with pytest.raises(NoDriver, match="Driver Not Loaded"), Nvml("here"):
        pass


def test_a_fatal_error_is_heard_and_held_against_it_for_a_while(driver: Driver) -> None:
    now = [100.0]
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    with Nvml("n", lambda: now[0]) as nvml:
        assert [each.xid for each in nvml.read()] == [None, None]
        driver.says(gpu1={"xid": 31})  # an application's own
        assert [each.xid for each in nvml.read()] == [None, None]
        driver.says(gpu1={"xid": 79})
        assert [each.xid for each in nvml.read()] == [None, 79]
        now[0] += XID_SECONDS - 1
        assert [each.xid for each in nvml.read()] == [None, 79]
        now[0] += 2
        assert [each.xid for each in nvml.read()] == [None, None]
