"""GPUs of other nodes: from an exporter's page to routing."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from llmgate.core.health import State
from tests.support.fake_engine import FakeEngine, completion, until
from tests.support.nvml import H100, Driver
from tests.support.processes import free_ports, process
from tests.support.serving import serving
from tests.wire.test_gpu_pages import dcgm_page

HEALTH = {"fall": 1, "rise": 2}


class Exporter:
    """A dcgm-exporter whose page a test writes."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.status = 200

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.page.encode()
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def exporting(page: str = "") -> AsyncIterator[tuple[Exporter, str]]:
    exporter = Exporter(page or dcgm_page())
    server = await asyncio.start_server(exporter.answer, "127.0.0.1", 0)
    yield exporter, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
    server.close()


async def test_an_engine_on_another_node_follows_its_gpus_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmgate")
    async with exporting() as (exporter, url), FakeEngine([completion()]) as a, FakeEngine([completion()]) as b:
        gpus = {"nvml": "off", "interval": 0.02, "health": HEALTH, "exporters": [{"node": "gpu-box", "url": url}]}
        one, other = {"url": a.url, "node": "gpu-box", "gpus": [0]}, {"url": b.url}
        async with serving(one, other, gpus=gpus, health={"interval": 0.05, "rise": 1}) as served:
            exporter.page = dcgm_page(DEV_XID_ERRORS=79)
            await until(lambda: served.state("a") is State.DOWN)
            labels = '{gpu="0",node="gpu-box",uuid="GPU-1"}'
            assert await served.metric(f"llmgate_gpu_xid{labels}") == 79
            assert await served.metric(f"llmgate_gpu_temperature_celsius{labels}") == 61
            exporter.page = dcgm_page()
            await until(lambda: served.state("a") is State.UP)
    said = [record.getMessage() for record in caplog.records if "GPU 0 of gpu-box" in record.getMessage()]
    assert said[0] == "GPU 0 of gpu-box (NVIDIA H100 80GB HBM3) is failed: XID 79: it has fallen off the bus"


async def test_an_exporter_that_fails_is_told_of_once_and_its_gpus_are_unknown_not_failed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "llmgate.probes")
    monkeypatch.setattr("llmgate.probes.gpu_exporters.LIFETIME", 0.2)
    async with exporting() as (exporter, url), FakeEngine() as a:
        gpus = {"nvml": "off", "interval": 0.02, "exporters": [{"node": "gpu-box", "url": url}]}
        async with serving({"url": a.url, "node": "gpu-box", "gpus": [0]}, gpus=gpus) as served:
            await until(lambda: len(list(served.gateway.gpus)) == 1)
            exporter.status = 500
            await until(lambda: not list(served.gateway.gpus))
            assert served.state("a") is State.UP
            exporter.status = 200
            await until(lambda: len(list(served.gateway.gpus)) == 1)
    said = [record.getMessage() for record in caplog.records if "GPUs of gpu-box" in record.getMessage()]
    assert said == [
        f"GPUs of gpu-box cannot be read from {url}: it answers 500",
        "GPUs of gpu-box are read again",
    ]


async def test_our_own_exporter_from_the_driver_to_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tmp_path / "gpus", monkeypatch)
    driver.says(gpu0={**H100, "uuid": "GPU-1"})
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "llmgate", "gpus", "--serve", str(port), "--node", "there"]
    gpus = {"nvml": "off", "interval": 0.05, "exporters": [{"node": "gpu-box", "url": f"http://127.0.0.1:{port}/gpus"}]}
    with process(command, **driver.environment):
        async with FakeEngine() as a, serving({"url": a.url, "node": "gpu-box", "gpus": [0]}, gpus=gpus) as served:
            await until(lambda: len(list(served.gateway.gpus)) == 1, 15)
            ((reading, _),) = served.gateway.gpus
            assert (reading.gpu.node, reading.temperature, reading.processes) == ("gpu-box", 61, 2)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            page = (await client.get("/metrics")).text
            assert 'llmgate_gpu_temperature_celsius{gpu="0",node="there",uuid="GPU-1"} 61.0' in page
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/elsewhere")).status_code == 404


async def test_without_a_driver_there_is_nothing_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from llmgate.cli.gpus import gpus

    Driver(tmp_path / "gpus", monkeypatch)
    result = await asyncio.to_thread(CliRunner().invoke, gpus, ["--serve", "9401"])
    assert result.exit_code == 1
    assert "cannot be read: Driver Not Loaded" in result.output
    assert CliRunner().invoke(gpus, ["--serve", "nonsense"]).exit_code == 2
