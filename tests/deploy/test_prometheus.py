"""A real Prometheus before a live gateway: what the dashboards, rules and alerts of deploy/ ask is there."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.deploy.dashboards import PROMETHEUS, Query, make, metrics_in, panel_queries, rules
from tests.support.certificates import Authority
from tests.support.nvml import H100, Driver
from tests.support.processes import free_ports, process, program
from tests.support.serving import CHAT, HELLO, Served, serving

WITHIN = 90.0  # seconds; it takes some ten, unless the machine is busy
READINGS = 60  # scrapes, one a second: what has not been found by then is not there


class Prometheus:
    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """What is found now. AssertionError with Prometheus' words if it cannot be asked."""
        answer = (await self._client.post("/api/v1/query", data={"query": expr})).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {expr}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    async def names(self) -> set[str]:
        return set((await self._client.get("/api/v1/label/__name__/values")).json()["data"])

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def engines(count: int) -> Iterator[list[str]]:
    """Simulated ones that tell all that they may; of the last, one request in five fails."""
    ports = free_ports(2 * count)
    with contextlib.ExitStack() as stack:
        for index in range(count):
            faults = ["--fault", "fail_rate=0.2"] if index == count - 1 else []
            more = ["--kv-events", f"tcp://*:{ports[count + index]}", "--enable-prompt-tokens-details", *faults]
            command = [sys.executable, "-m", "llmgate", "sim-engine", "--port", str(ports[index]), "--model", "m"]
            stack.enter_context(
                process([*command, "--tokenizer", "embedded", "--output-tokens", "uniform:8:40", *more])
            )
        yield [f"http://127.0.0.1:{port}" for port in ports[:count]]


@contextlib.asynccontextmanager
async def prometheus(folder: Path, target: int) -> AsyncIterator[Prometheus]:
    """With the files of deploy/prometheus; only where and how often it looks is another."""
    changes = {
        "scrape_interval: 15s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
        "[127.0.0.1:8080]": f"[127.0.0.1:{target}]",
    }
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    for file in ("rules.yml", "alerts.yml"):
        (folder / file).write_bytes((PROMETHEUS / file).read_bytes())
    (port,) = free_ports(1)
    options = {"config.file": f"{folder}/prometheus.yml", "storage.tsdb.path": f"{folder}/data"}
    options |= {"web.listen-address": f"127.0.0.1:{port}", "log.level": "warn"}
    command = [program("prometheus", "prometheus"), *(f"--{name}={value}" for name, value in options.items())]
    with process(command):
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            await ready(client)
            yield Prometheus(client)


async def ready(client: httpx2.AsyncClient) -> None:
    """It listens before it has read its database, and says 503 to whoever asks in between."""
    async with asyncio.timeout(WITHIN):
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get("/-/ready")).status_code == httpx2.codes.OK:
                    return
            await asyncio.sleep(0.05)


async def load(served: Served, number: int) -> None:
    """One client that asks on and on: streams, conversations that go on, now and then for a model that is not there."""
    said: list[dict[str, str]] = [{"role": "system", "content": "You are a patient teacher of arithmetic. " * 20}]
    for turn in range(sys.maxsize):
        said = [*said[:9], {"role": "user", "content": f"And what is {number} times {turn}, if you please?"}]
        answered = await served.client.post(CHAT, json=HELLO | {"messages": said, "stream": turn % 4 != 0})
        assert answered.status_code == 200 or answered.status_code >= 500, answered.text
        if turn % 10 == 0:
            await served.chat(HELLO | {"model": "none-of-ours"})


async def empty(database: Prometheus, queries: Sequence[Query]) -> list[Query]:
    """Those that find nothing, though they should, when they have had time enough."""
    async with asyncio.timeout(WITHIN):
        while True:
            left = [query for query in queries if not await database.query(query.expr)]
            if not left:
                return []
            if await database.query(f"max(count_over_time(up[10m])) > {READINGS}"):
                return left
            await asyncio.sleep(0.5)


@pytest.fixture
def settings(tmp_path: Path) -> Mapping[str, Any]:
    """All that brings series of its own."""
    return {
        "server": {"tls": Authority(tmp_path / "tls").issue().settings},
        "router": {"policy": "expected-latency"},
        "models": [{"name": "m", "tokenizer": "embedded"}],
        "slo": {"ttft": 0.5, "tpot": 0.05},
        "health": {"strikes": 1, "eject": 0.3, "slow_start": 0},
        "gpus": {"node": "here"},
        "access_log": {"to": str(tmp_path / "access.log")},
    }


async def test_every_panel_rule_and_alert_finds_its_series(
    tmp_path: Path, settings: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("prometheus", "prometheus")
    Driver(tmp_path / "gpus", monkeypatch).says(gpu0={**H100, "uuid": "GPU-1"}, gpu1={**H100, "uuid": "GPU-2"})
    with engines(3) as urls:
        endpoints = [{"url": url, "gpus": [index]} if index < 2 else {"url": url} for index, url in enumerate(urls)]
        async with serving(*endpoints, **settings) as served:
            clients = [asyncio.create_task(load(served, number)) for number in range(8)]
            try:
                async with prometheus(tmp_path, served.gateway.admin_port) as database:
                    await check(database)
            finally:
                for client in clients:
                    client.cancel()
                ended = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
            await served.settled()


async def check(database: Prometheus) -> None:
    asked = [*panel_queries(), *(Query(rule["record"], rule["expr"]) for rule in rules("rules.yml"))]
    assert await empty(database, [query for query in asked if not query.may_be_empty]) == []
    loaded = await database.rules()
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    alerts = [Query(rule["alert"], rule["expr"]) for rule in rules("alerts.yml")]
    variables = [Query(f"variable {name}", query) for name, query in make.VARIABLES.items()]
    names = await database.names()
    unknown = {query.where: metrics_in(query.expr) - names for query in (*asked, *alerts, *variables)}
    assert {where: missing for where, missing in unknown.items() if missing} == {}
    for query in (*asked, *alerts):
        await database.query(query.expr)
    firing = {rule["name"] for rule in loaded if rule["type"] == "alerting" and rule["state"] == "firing"}
    assert firing <= {"LlmgateErrorBudgetBurn", "LlmgateEndpointFlapping", "LlmgateTtftBurn"}, "the load asks for these"
