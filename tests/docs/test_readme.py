from __future__ import annotations

import asyncio
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from llmgate.config import from_data
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import EndpointSpec
from llmgate.demo.engines import Engine
from llmgate.routing import registry
from tests.core.make import pool, request
from tests.docs.pages import example, read
from tests.support.serving import serving


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's router and its entry point, as if their package were installed."""
    (tmp_path / "my_routers.py").write_text(example("README.md", "router"))
    entry = tomllib.loads(example("README.md", "entry point"))["project"]["entry-points"]
    info = tmp_path / "my_routers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-routers\nVersion: 1\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in entry.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_routers", raising=False)


def test_the_router_is_about_fifteen_lines() -> None:
    lines = [line for line in example("README.md", "router").splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.usefixtures("my_package")
def test_the_router_keeps_the_contract() -> None:
    import my_routers  # type: ignore[import-not-found]

    exec(example("README.md", "check"), vars(my_routers))


@pytest.mark.usefixtures("my_package")
def test_the_router_is_found_by_its_entry_point_and_does_what_it_says() -> None:
    assert "near-first" in registry.names()
    router = registry.create("near-first", {"zone": "b"})
    endpoints = pool(1)
    endpoints.add(EndpointSpec("near", "http://near", models={"m": "m"}, labels={"zone": "b"})).health.probe_passed()
    scheduler = Scheduler(endpoints, router)
    for _ in range(5):
        decision = scheduler.schedule(request(prompt=1000, output=0), 0.0)
        scheduler.book(request(prompt=1000, output=0), decision, 0.0)
    assert {endpoint.name: endpoint.load.requests for endpoint in endpoints} == {"e0": 1, "near": 4}


def test_the_configuration_is_valid() -> None:
    config = from_data(yaml.safe_load(example("README.md", "configuration")), "README.md", {})
    assert [endpoint.name for endpoint in config.endpoints] == ["node-a:8000", "node-b:8000"]


def test_the_policies_are_all_named_and_the_default_is_marked() -> None:
    text = read("README.md")
    for name in registry.BUILT_IN:
        assert f"docs/policies/{name}.md" in text
    assert f"docs/policies/{registry.DEFAULT}.md) (default)" in text


async def test_the_client_example_runs(tiny_engines: Sequence[Engine], capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(*(engine.url for engine in tiny_engines)) as served:
        code = example("README.md", "client").replace("http://127.0.0.1:8080", served.url)
        await asyncio.to_thread(exec, code + "\nclient.close()\n", {})
    whole, _, streamed = capsys.readouterr().out.partition("\n")
    assert whole
    assert streamed
