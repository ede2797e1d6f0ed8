from __future__ import annotations

import pytest

from llmgate.core.gpu import Gpu, GpuPolicy, GpuReading, GpuState
from llmgate.core.gpus import DEGRADED_SHARE, Gpus, runs_on
from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointSpec

QUICK = GpuPolicy(fall=1, rise=1)
FIRST, SECOND = Gpu("here", 0, "GPU-0", "H100"), Gpu("here", 1, "GPU-1", "H100")
SLICE = Gpu("here", 1, "MIG-1", "H100", mig=2, share=0.5)


def pool(*gpus: int | str, node: str | None = None) -> EndpointPool:
    made = EndpointPool([EndpointSpec("e", "http://e", models={"m": "m"}, node=node, gpus=gpus)])
    for each in made:
        each.health.probe_passed()
    return made


@pytest.mark.parametrize(
    ("gpus", "gpu", "there"),
    [
        ([0], FIRST, True),
        ([1], FIRST, False),
        (["GPU-0"], FIRST, True),
        ([1], SLICE, True),  # the whole of it is its instances
        (["1:2"], SLICE, True),
        (["MIG-1"], SLICE, True),
        (["1:0"], SLICE, False),
        ([], FIRST, False),
    ],
)
def test_an_endpoint_names_its_gpus(gpus: list[int | str], gpu: Gpu, there: bool) -> None:
    assert runs_on(EndpointSpec("e", "http://e", gpus=gpus), gpu, "here") is there
    assert not runs_on(EndpointSpec("e", "http://e", gpus=gpus), gpu, "elsewhere")
    assert not runs_on(EndpointSpec("e", "http://e", gpus=gpus, node="there"), gpu, "here")
    assert runs_on(EndpointSpec("e", "http://e", gpus=gpus, node="here"), gpu, "elsewhere") is there


def test_an_endpoint_with_a_failed_gpu_is_down_whatever_probes_say_until_it_is_well() -> None:
    made = pool(0, 1)
    (endpoint,) = made
    gpus = Gpus(made, "here", QUICK)
    changed = gpus.take_in("here", [GpuReading(FIRST, 1.0), GpuReading(SECOND, 1.0, lost="GPU is lost")])
    assert changed == [(SECOND, GpuState.FAILED, "GPU is lost")]
    assert (endpoint.health.state, endpoint.health.reason) == (State.DOWN, "GPU: GPU is lost")
    for _ in range(5):
        endpoint.health.probe_passed()
    assert not made.ready("m", 1.0)
    assert gpus.take_in("here", [GpuReading(FIRST, 2.0), GpuReading(SECOND, 2.0)]) == [(SECOND, GpuState.OK, "")]
    assert not made.ready("m", 2.0)  # it must answer probes again
    endpoint.health.probe_passed()
    endpoint.health.probe_passed()
    assert made.ready("m", 2.0)


def test_a_degraded_gpu_takes_weight_and_gives_it_back() -> None:
    made = pool(0)
    (endpoint,) = made
    gpus = Gpus(made, "here", QUICK)
    gpus.take_in("here", [GpuReading(FIRST, 1.0, temperature=90.0)])
    assert made.ready("m", 1.0) == (endpoint,)
    assert endpoint.weight == DEGRADED_SHARE
    made.update(endpoint, EndpointSpec("e", "http://e", weight=4.0, models={"m": "m"}, gpus=[0]))
    assert endpoint.weight == 4.0 * DEGRADED_SHARE
    gpus.take_in("here", [GpuReading(FIRST, 2.0, temperature=50.0)])
    assert endpoint.weight == 4.0


def test_other_endpoints_are_left_alone() -> None:
    made = pool(node="there")
    (endpoint,) = made
    Gpus(made, "here", QUICK).take_in("here", [GpuReading(FIRST, 1.0, lost="GPU is lost")])
    assert endpoint.health.state is State.UP


def test_a_reading_that_is_old_holds_nothing_down() -> None:
    """Its GPU is no longer among those that are read: the node has another one now."""
    made = pool(0)
    (endpoint,) = made
    gpus = Gpus(made, "here", QUICK)
    gpus.take_in("here", [GpuReading(FIRST, 1.0, lost="GPU is lost")])
    gpus.take_in("here", [GpuReading(SECOND, 100.0)])
    assert [reading.gpu for reading, _ in gpus] == [SECOND]
    endpoint.health.probe_passed()
    endpoint.health.probe_passed()
    assert endpoint.health.state is State.UP


def test_when_gpus_are_no_longer_watched_they_hold_nothing_down() -> None:
    made = pool(0)
    (endpoint,) = made
    gpus = Gpus(made, "here", QUICK)
    gpus.take_in("here", [GpuReading(FIRST, 1.0, lost="GPU is lost")])
    assert gpus.take_in("here", []) == []
    assert not list(gpus)
    endpoint.health.probe_passed()
    endpoint.health.probe_passed()
    assert endpoint.health.state is State.UP


def test_other_thresholds_hold_for_gpus_that_are_known() -> None:
    made = pool(0)
    gpus = Gpus(made, "here", QUICK)
    gpus.take_in("here", [GpuReading(FIRST, 1.0, temperature=80.0)])
    gpus.set_policy(GpuPolicy(hot=75.0, fall=1))
    assert gpus.take_in("here", [GpuReading(FIRST, 2.0, temperature=80.0)]) == [(FIRST, GpuState.DEGRADED, "80 °C")]


@pytest.mark.parametrize(
    ("gpus", "seen", "part"),
    [
        (["MIG-1"], [SLICE], 0.5),
        ([1], [SLICE, Gpu("here", 1, "MIG-2", "H100", mig=0, share=0.5)], 1.0),  # all that there is of it
        (["MIG-1", "MIG-2"], [SLICE, Gpu("here", 1, "MIG-2", "H100", mig=0, share=0.25)], 0.375),
        ([0], [FIRST], 1.0),
        (["MIG-1"], [FIRST], 1.0),  # not seen
    ],
)
def test_an_endpoint_on_slices_has_that_part_of_its_weight(gpus: list[int | str], seen: list[Gpu], part: float) -> None:
    made = pool(*gpus)
    Gpus(made, "here", QUICK).take_in("here", [GpuReading(gpu, 1.0) for gpu in seen])
    (endpoint,) = made
    assert endpoint.weight == endpoint.derating == part


def test_a_weight_that_was_stated_holds_on_a_slice_too() -> None:
    made = EndpointPool([EndpointSpec("e", "http://e", 2.0, models={"m": "m"}, gpus=["MIG-1"], weight_stated=True)])
    Gpus(made, "here", QUICK).take_in("here", [GpuReading(SLICE, 1.0)])
    (endpoint,) = made
    assert endpoint.weight == 2.0


def test_a_node_that_is_no_longer_read_takes_no_other_with_it() -> None:
    made = pool(0)
    gpus = Gpus(made, "here", QUICK)
    gpus.take_in("here", [GpuReading(FIRST, 1.0)])
    gpus.take_in("there", [GpuReading(Gpu("there", 0, "GPU-9", "H100"), 500.0)])
    gpus.take_in("there", [])
    assert [reading.gpu for reading, _ in gpus] == [FIRST]
