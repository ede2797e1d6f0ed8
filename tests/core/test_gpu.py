from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.core.gpu import RANK, Gpu, GpuHealth, GpuPolicy, GpuReading, GpuState

OK, DEGRADED, FAILED = GpuState.OK, GpuState.DEGRADED, GpuState.FAILED
WELL = GpuReading(Gpu("n", 0, "u", "H100"), 0.0, temperature=60.0, memory_used=99, memory_total=100, ecc_corrected=7)
HOT = replace(WELL, temperature=85.0)
LOST = replace(WELL, lost="GPU is lost")
BROKEN = replace(WELL, ecc_uncorrected_now=1)


@pytest.mark.parametrize(
    ("reading", "state", "reason"),
    [
        (WELL, OK, ""),
        (replace(WELL, temperature=None), OK, ""),
        (HOT, DEGRADED, "85 °C"),
        (replace(WELL, throttled=frozenset({"power_cap", "idle"})), OK, ""),
        (replace(WELL, throttled=frozenset({"hw_thermal"})), DEGRADED, "hw_thermal"),
        (replace(WELL, throttled=frozenset({"hw_slowdown", "power_brake"})), DEGRADED, "slowed down: hw_slowdown"),
        (replace(WELL, remap_pending=True), DEGRADED, "reset"),
        (replace(WELL, remap_pending=True, remap_failed=True), FAILED, "replaced"),
        (BROKEN, FAILED, "1 uncorrectable"),
        (replace(HOT, lost="GPU is lost"), FAILED, "GPU is lost"),
    ],
)
def test_what_one_reading_shows(reading: GpuReading, state: GpuState, reason: str) -> None:
    shown, why = GpuHealth().judge(reading)
    assert shown is state
    assert reason in why


def test_full_memory_and_old_errors_count_only_if_wanted() -> None:
    assert GpuHealth(GpuPolicy(full=0.98)).judge(WELL) == (DEGRADED, "99% of its memory is in use")
    assert GpuHealth(GpuPolicy(ecc_total=7)).judge(WELL) == (DEGRADED, "7 memory errors in its life")
    assert GpuHealth(GpuPolicy(full=1.0, ecc_total=8)).judge(WELL)[0] is OK


def test_a_moment_of_heat_changes_nothing_and_a_lasting_one_does() -> None:
    health = GpuHealth(GpuPolicy(fall=3, rise=2))
    assert [health.observe(each) for each in (HOT, HOT, WELL, HOT, HOT)] == [False] * 5
    assert health.state is OK
    assert health.observe(HOT)
    assert (health.state, health.reason) == (DEGRADED, "85 °C")


def test_it_takes_good_readings_in_a_row_to_be_well_again() -> None:
    health = GpuHealth(GpuPolicy(fall=1, rise=3))
    health.observe(HOT)
    assert not any(health.observe(each) for each in (WELL, WELL, HOT, WELL, WELL))
    assert health.observe(WELL)
    assert (health.state, health.reason) == (OK, "")


def test_what_is_lost_is_lost_at_once_and_comes_back_slowly() -> None:
    health = GpuHealth(GpuPolicy(fall=5, rise=2))
    assert health.observe(LOST)
    assert health.state is FAILED
    assert not health.observe(HOT)
    assert health.observe(HOT)  # better than lost, and not well
    assert health.state is DEGRADED


@given(st.lists(st.sampled_from([WELL, HOT, BROKEN, LOST])), st.integers(1, 5), st.integers(1, 5))
def test_it_is_never_worse_than_what_was_shown_nor_better_without_proof(
    readings: list[GpuReading], fall: int, rise: int
) -> None:
    health = GpuHealth(GpuPolicy(fall=fall, rise=rise))
    for number, reading in enumerate(readings):
        before = health.state
        changed = health.observe(reading)
        assert changed == (health.state is not before)
        if RANK[health.state] > RANK[before]:
            shown = [health.judge(each)[0] for each in readings[max(number + 1 - fall, 0) : number + 1]]
            assert reading.lost or shown == [health.state] * fall
        if RANK[health.state] < RANK[before]:
            last = readings[number + 1 - rise : number + 1]
            assert len(last) == rise
            assert all(RANK[health.judge(each)[0]] < RANK[before] for each in last)


def test_a_fatal_xid_fails_it_at_once_and_an_applications_own_does_not() -> None:
    health = GpuHealth(GpuPolicy(fall=3, rise=2))
    gpu = Gpu("n", 0, "u", "H100")
    assert not health.observe(GpuReading(gpu, 1.0, xid=31))
    assert health.observe(GpuReading(gpu, 2.0, xid=79))
    assert (health.state, health.reason) == (GpuState.FAILED, "XID 79: it has fallen off the bus")
    assert not health.observe(GpuReading(gpu, 3.0))
    assert health.observe(GpuReading(gpu, 4.0))
