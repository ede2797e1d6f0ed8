"""The real program when its file descriptors are used up, and when its log's disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from pathlib import Path

import httpx2

from tests.support.fake_engine import PATIENCE, FakeEngine, completion
from tests.support.processes import free_ports
from tests.support.serving import CHAT, HELLO, serving


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def answers(client: httpx2.AsyncClient, path: str, seconds: float = 20.0) -> httpx2.Response:
    """Asks until it is answered 200."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = await client.get(path)
                if answer.status_code == 200:
                    return answer
            await asyncio.sleep(0.02)


async def test_without_file_descriptors_it_says_so_and_recovers_by_itself(tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    log = tmp_path / "log"
    async with FakeEngine([completion()]) as engine, contextlib.AsyncExitStack() as stack:
        out = stack.enter_context(log.open("wb"))
        words = ["serve", engine.url, "--host", "127.0.0.1", "--port", port, "--admin-port", admin_port]
        gateway = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmgate", *map(str, words), stderr=out, stdin=asyncio.subprocess.DEVNULL
        )
        stack.push_async_callback(gateway.wait)
        stack.callback(gateway.terminate)
        url = f"http://127.0.0.1:{port}"
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=5, verify=False))
        await answers(client, "/ready")
        open_now = descriptors(gateway.pid)
        _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (open_now + 10, hard))
        writers = []
        async with asyncio.timeout(PATIENCE):
            while b"no file descriptor is left" not in log.read_bytes():
                with contextlib.suppress(OSError):
                    writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
                await asyncio.sleep(0.02)
        assert (await client.get("/health")).status_code == 200, "connections that are open go on"
        for writer in writers:
            writer.transport.abort()
        await answers(client, "/ready")
        async with httpx2.AsyncClient(base_url=url, timeout=5, verify=False) as fresh:
            await answers(fresh, "/ready")  # once it has seen that those connections are gone
            assert (await fresh.post(CHAT, json=HELLO)).status_code == 200
            page = (await answers(fresh, "/metrics")).text
        assert "llmgate_descriptor_exhaustions_total 1.0" in page
        assert log.read_text().count("no file descriptor is left") == 1


async def test_a_full_disk_costs_the_log_its_lines_and_nobody_a_request() -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine, access_log={"to": "/dev/full"}) as served,
        asyncio.timeout(20),
    ):
        for _ in range(3):
            assert (await served.chat()).status_code == 200
        while await served.metric('llmgate_access_log_dropped_total{reason="write_failed"}') < 3:
            await asyncio.sleep(0.02)
        assert (await served.chat()).status_code == 200
