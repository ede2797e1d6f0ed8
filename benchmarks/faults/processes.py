"""The engines and the gateways, each a process of its own, and what the system says of them."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2
import yaml

from benchmarks.faults import engine
from benchmarks.faults.names import Names

READY_SECONDS = 30.0
STOP_SECONDS = 60.0
CHUNKS = 10
GAP = 0.002
"""Seconds between chunks: a streamed answer takes 20 ms and more."""


class Failed(Exception):
    """The text says which process did not do what."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


HOME = "127.0.0.1"
"""Where engines are, until they move."""


class EngineProcess:
    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.address = HOME
        self.start()

    def start(self) -> None:
        words = (self.address, self.port, CHUNKS, GAP)
        self._process = subprocess.Popen([sys.executable, "-m", engine.__name__, *map(str, words)])

    async def move(self, address: str) -> subprocess.Popen[bytes]:
        """Starts another process there that takes its place, and gives back the one that had it. Raises Failed."""
        before, self.address = self._process, address
        self.start()
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                _, writer = await asyncio.open_connection(address, self.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return before
        raise Failed(f"an engine at {address}:{self.port} did not start within {READY_SECONDS:g} s")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Configuration:
    """The gateways' file, which can be changed."""

    def __init__(self, path: Path, port: int, engines: Sequence[EngineProcess], hosts: Sequence[str]) -> None:
        """`hosts`: where to find the engines, by their numbers."""
        self.path = path
        self.port = port
        self._engines = engines
        self._hosts = hosts
        self.write(engines)

    def write(self, engines: Sequence[EngineProcess], weight: float = 1.0) -> None:
        """With some of the engines; the last one of the given weight."""
        endpoints: list[dict[str, object]] = [
            {"url": f"http://{self._hosts[engine.number]}:{engine.port}", "models": ["m"]} for engine in engines
        ]
        endpoints[-1]["weight"] = weight
        data = {
            "server": {"host": "127.0.0.1", "port": self.port, "reuse_port": True},
            "endpoints": endpoints,
            "reload": {"watch": 0},
            "health": {"interval": 0.5, "rise": 1, "eject": 1, "slow_start": 0},
        }
        self.path.write_text(yaml.safe_dump(data))

    def restore(self) -> None:
        self.write(self._engines)


class GatewayProcess:
    """`llmgate serve`. Wait for `ready`."""

    def __init__(self, configuration: Configuration, log: Path, names: Names | None) -> None:
        (self._admin_port,) = free_ports(1)
        words = ["serve", "--config", configuration.path, "--admin-port", self._admin_port]
        command = [sys.executable, "-m", "llmgate", *map(str, words)]
        with log.open("ab") as out:
            self._process = subprocess.Popen(names.within(command) if names else command, stderr=out)
        self._log = log
        self.pid = self._process.pid
        self._admin = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self._admin_port}", timeout=10, verify=False)

    async def ready(self) -> None:
        """Its engines are up. Raises Failed."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if self._process.poll() is not None:
                raise Failed(f"the gateway ended with {self._process.returncode}: see {self._log}")
            try:
                answer = await self._admin.get("/api/endpoints")
                if all(each["state"] == "up" for each in answer.json()):
                    return
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.05)
        raise Failed(f"the gateway was not ready within {READY_SECONDS:g} s: see {self._log}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self) -> int:
        """Ends it in order; its exit code. Raises Failed."""
        await self._admin.aclose()
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the gateway did not stop within {STOP_SECONDS:g} s: see {self._log}") from None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def rss(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    async def open_charges(self) -> int:
        endpoints = (await self._admin.get("/api/endpoints")).json()
        return sum(each["in_flight"]["requests"] for each in endpoints)

    async def metric(self, name: str) -> float:
        """The sum of all series of this name."""
        page = (await self._admin.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if re.match(rf"{name}[ {{]", line))

    async def settled(self, descriptors: int) -> None:
        """Waits, for some seconds, until nothing is in flight and it has no more descriptors open than that."""
        for _ in range(200):
            if not await self.open_charges() and self.descriptors() <= descriptors:
                return
            await asyncio.sleep(0.05)
