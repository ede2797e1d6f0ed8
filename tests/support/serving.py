"""A whole gateway in the test's own event loop, on free ports, that must leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx2

from llmgate.config import Config, ConfigFile, from_data
from llmgate.config.schema import AdminConfig, ServerConfig
from llmgate.core.health import State
from llmgate.core.types import Kind
from llmgate.gateway.client import Client
from llmgate.gateway.protocol import DirectClient
from llmgate.runtime import Gateway
from llmgate.testing.fake_upstream import FakeUpstream
from llmgate.upstream.native import NativeClient
from tests.support.fake_engine import PATIENCE, until

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
STREAMED = HELLO | {"stream": True}


def config(*endpoints: str | FakeUpstream | dict[str, Any], **sections: Any) -> Config:
    """Endpoints are named a, b, c … unless they say otherwise; `sections` go on top of what suits tests."""
    return from_data(config_data(*endpoints, **sections), "test", {})


def config_data(*endpoints: str | FakeUpstream | dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The same as a file would hold it."""
    data: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0},
        "admin": {"host": "127.0.0.1", "port": 0},
        "endpoints": [],
        "router": {"policy": "round-robin"},
        "timeouts": {"notice": 0, "drain": 2},
    }
    for letter, endpoint in zip(string.ascii_lowercase, endpoints, strict=False):
        url = endpoint.url if isinstance(endpoint, FakeUpstream) else endpoint
        data["endpoints"].append({"name": letter, **(url if isinstance(url, dict) else {"url": url})})
    for section, values in sections.items():
        data[section] = {**data[section], **values} if isinstance(data.get(section), dict) else values
    return data


class Served:
    """A running gateway and clients of its two ports."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.client = _client(gateway.data_port, gateway.config.server)
        self.admin = _client(gateway.admin_port, gateway.config.admin)
        self.url = str(self.client.base_url).rstrip("/")
        self._left_in_use: list[object] = []
        self._before = asyncio.all_tasks()
        self.ended = asyncio.create_task(self._run_and_look())

    @property
    def open_charges(self) -> int:
        return self.gateway.scheduler.ledger.open_charges

    @property
    def tasks(self) -> int:
        """Requests that the data port's server is busy with."""
        return len(self.gateway._data.server_state.tasks)

    @property
    def upstream_connections_in_use(self) -> int:
        client = self.gateway.client
        assert isinstance(client, NativeClient)
        return sum(stats.in_use for stats in client.stats().values())

    async def serve(self, client: Client) -> None:
        """Have a chat served that comes over no socket."""
        await self.gateway._proxy.serve(Kind.CHAT, client)

    @property
    def client_connections(self) -> int:
        """Open connections of clients, among them the idle ones of `self.client`."""
        return len(self.gateway._data.server_state.connections)

    @property
    def listening(self) -> bool:
        return any(server.is_serving() for server in getattr(self.gateway._data, "servers", ()))

    @property
    def unsent(self) -> int:
        """Bytes that the gateway holds for a client that does not take them: the most of any connection."""
        connections = self.gateway._data.server_state.connections
        return max(connection.transport.get_write_buffer_size() for connection in connections)

    @property
    def sent_by_connection(self) -> list[int]:
        """Bytes of each connection's present answer to a direct request."""
        connections: Any = self.gateway._data.server_state.connections
        return [each.cycle.sent for each in connections if isinstance(each.cycle, DirectClient)]

    def state(self, name: str) -> State:
        endpoint = self.gateway.pool.get(name)
        assert endpoint is not None
        return endpoint.health.state

    async def ready(self) -> Self:
        """Waits until /ready says so and every endpoint is up."""

        async def answers() -> bool:
            return (await self.client.get("/ready")).status_code == 200

        async with asyncio.timeout(10):
            while not (await answers() and all(self.state(e.name) is State.UP for e in self.gateway.pool)):
                await asyncio.sleep(0.01)
        return self

    async def chat(self, body: dict[str, Any] | bytes = HELLO, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(CHAT, content=content, headers={k.replace("_", "-"): headers[k] for k in headers})

    async def metric(self, line: str) -> float:
        """The value of one series of /metrics, given by name and labels; 0 if it is not there."""
        page = (await self.client.get("/metrics")).text
        found = [each.rpartition(" ")[2] for each in page.splitlines() if each.startswith(f"{line} ")]
        return float(found[0]) if found else 0.0

    async def settled(self) -> None:
        """Waits until nothing is in flight any more, for tests that end with a request cut off."""
        await until(lambda: self.open_charges == 0)

    async def ends(self) -> None:
        """Waits until the gateway has stopped of its own accord."""
        await asyncio.wait([self.ended], timeout=PATIENCE)
        assert self.ended.done(), f"it did not end within {PATIENCE:g} s"

    async def stopped(self) -> None:
        """Stop, and see that nothing is left: no charge, load, connection in use, or task."""
        await self.client.aclose()
        await self.admin.aclose()
        if not self.ended.done():
            self.gateway.stop()
        await self.ended
        assert self.open_charges == 0
        for endpoint in self.gateway.pool:
            load = endpoint.load
            assert (load.requests, load.prefill_tokens, load.decode_tokens, load.kv_tokens) == (0, 0, 0, 0), endpoint
            assert not endpoint.health.trial_open
        assert not self._left_in_use
        assert not self.client_connections
        # a handshake that the end broke off is, on the engine's side, over a turn of the loop later
        with contextlib.suppress(AssertionError):
            await until(lambda: not self._left_tasks(), 1.0)
        assert not self._left_tasks(), f"tasks outlive the gateway: {self._left_tasks()}"

    def _left_tasks(self) -> list[asyncio.Task[Any]]:
        left = [task for task in asyncio.all_tasks() - self._before if task is not asyncio.current_task()]
        return [task for task in left if "FakeEngine" not in repr(task.get_coro())]

    async def _run_and_look(self) -> None:
        """`gateway.run()`, with a look at its upstream connections before they are all closed."""
        client = self.gateway.client
        assert isinstance(client, NativeClient)
        close = client.aclose

        async def look_and_close() -> None:
            self._left_in_use = [target.host_header for target, stats in client.stats().items() if stats.in_use]
            await close()

        client.aclose = look_and_close  # type: ignore[method-assign]
        await self.gateway.run()


def _client(port: int, section: ServerConfig | AdminConfig) -> httpx2.AsyncClient:
    scheme = "http" if section.tls is None else "https"
    limits = httpx2.Limits(max_connections=None)
    # verify: loading the authorities takes longer than a test does; what certificates are for has tests of its own
    return httpx2.AsyncClient(base_url=f"{scheme}://127.0.0.1:{port}", timeout=20, limits=limits, verify=False)


@asynccontextmanager
async def serving(
    *endpoints: str | FakeUpstream | dict[str, Any],
    wait: bool = True,
    source: ConfigFile | None = None,
    **sections: Any,
) -> AsyncIterator[Served]:
    """A gateway in front of `endpoints`, ready unless `wait` is false; with a `source`, of what that says."""
    served = Served(Gateway(source.read() if source else config(*endpoints, **sections), source=source))
    try:
        if wait:
            await served.ready()
        yield served
    except BaseException:
        served.gateway.stop()
        served.gateway.stop()
        await asyncio.gather(served.client.aclose(), served.admin.aclose(), served.ended, return_exceptions=True)
        raise
    await served.stopped()
