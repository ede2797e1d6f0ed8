"""GPUs of the gateway's own machine, from the driver to routing and metrics."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from llmgate.core.health import State
from tests.support.fake_engine import FakeEngine, completion, until
from tests.support.nvml import H100, Driver
from tests.support.serving import serving

SOON = {"node": "here", "interval": 0.02, "health": {"fall": 2, "rise": 2}}


def series(name: str, **labels: str) -> str:
    labels = {"node": "here", "gpu": "0", "uuid": "GPU-1"} | labels
    text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"llmgate_gpu_{name}{{{text}}}"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path / "gpus", monkeypatch)


async def test_an_engine_whose_gpu_is_lost_gets_nothing_until_it_is_back(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    driver.says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    async with FakeEngine([completion()]) as a, FakeEngine([completion()]) as b:
        one, other = ({"url": each.url, "gpus": [index]} for index, each in enumerate((a, b)))
        health = {"interval": 0.05, "rise": 1}
        async with serving(one, other, gpus=SOON, health=health) as served:
            driver.says(gpu0={"lost": 1})
            await until(lambda: served.state("a") is State.DOWN)
            assert {(await served.chat()).headers["x-llmgate-endpoint"] for _ in range(4)} == {"b"}
            assert await served.metric(series("state", state="failed")) == 1
            listed = (await served.admin.get("/api/endpoints")).json()
            assert [each["reason"] for each in listed if each["name"] == "a"] == ["GPU: GPU is lost"]
            driver.forgets("0", "lost")
            await until(lambda: served.state("a") is State.UP)
    said = [record.getMessage() for record in caplog.records if "GPU 0 of here" in record.getMessage()]
    assert said == [
        "GPU 0 of here (NVIDIA H100 80GB HBM3) is failed: GPU is lost",
        "GPU 0 of here (NVIDIA H100 80GB HBM3) is ok: well",
    ]


async def test_what_gpus_say_is_in_the_metrics_and_joins_with_endpoints(driver: Driver) -> None:
    driver.says(gpu0={**H100, "uuid": "GPU-1", "reasons": 0x40})
    async with FakeEngine() as engine, serving({"url": engine.url, "gpus": ["GPU-1"]}, gpus=SOON) as served:
        async with asyncio.timeout(5):
            while not await served.metric(series("state", state="degraded")):
                await asyncio.sleep(0.01)
        for name, value in {
            series("utilization_ratio"): 0.87,
            series("memory_used_bytes"): 72e9,
            series("temperature_celsius"): 61,
            series("power_watts"): 512.3,
            series("clock_hertz", clock="sm"): 1.98e9,
            series("throttled", reason="hw_thermal"): 1,
            series("ecc_errors_total", kind="corrected"): 3,
            series("pcie_bytes_per_second", direction="tx"): 1.2e6,
            series("nvlink_bytes_total", direction="tx"): 18 * 5_000_000_000 * 1024,
            series("nvlink_bytes_total", direction="rx"): 18 * 1_000 * 1024,
            series("endpoint_info", endpoint="a"): 1,
        }.items():
            assert await served.metric(name) == value, name
        (endpoint,) = served.gateway.pool
        assert endpoint.derating == 0.5


async def test_without_a_driver_one_line_says_so_and_everything_else_works(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    async with FakeEngine([completion()]) as engine, serving({"url": engine.url, "gpus": [0]}, gpus=SOON) as served:
        assert (await served.chat()).status_code == 200
        assert "llmgate_gpu" not in (await served.client.get("/metrics")).text
    said = [record for record in caplog.records if "GPU" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in said] == [
        ("INFO", "no GPUs are watched: Driver Not Loaded")
    ]


async def test_gpus_are_not_looked_for_if_not_wanted(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    driver.says(gpu0={**H100, "uuid": "GPU-1"})
    async with FakeEngine() as engine, serving(engine, gpus={"nvml": False}) as served:
        assert "llmgate_gpu" not in (await served.client.get("/metrics")).text
    assert not [record for record in caplog.records if "GPU" in record.getMessage()]
