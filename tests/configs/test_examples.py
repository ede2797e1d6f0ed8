"""Every example in configs/ passes `llmgate check` and serves what it says, with scripted engines in place of its own.

What is changed: addresses of engines, ports of the gateway, and files that are elsewhere on this machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import yaml
from click.testing import CliRunner

import llmgate.tokens
from llmgate.cli.main import main
from llmgate.config import from_data, load_file
from llmgate.config.schema import EndpointConfig
from llmgate.routing import registry
from tests.support.fake_engine import FakeEngine, completion
from tests.support.serving import serving

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
EMBEDDED = Path(llmgate.tokens.__file__).parent / "embedded"

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Stands for the system's authorities, and for a private one."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def here(tmp_path: Path, authority: trustme.CA) -> Mapping[str, str]:
    """Files that examples name → files that are there."""
    models = tmp_path / "models"
    for name in ("llama-3.1-70b", "qwen3-8b"):
        (models / name).mkdir(parents=True)
        for file in EMBEDDED.glob("*.j*"):
            (models / name / file.name).write_bytes(file.read_bytes())
    return {"/models": str(models), "/etc/ssl/certs/ca-certificates.crt": str(tmp_path / "ca.pem")}


def adapted(file: Path, here: Mapping[str, str]) -> str:
    text = file.read_text()
    for named, there in here.items():
        text = re.sub(rf"(?m){re.escape(named)}(?=[/}}\s])", there, text)
    return text


def secrets(text: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "a-secret")


@each_file
def test_it_passes_the_check_as_it_stands(file: Path) -> None:
    checked = CliRunner().invoke(main, ["check", str(file)], env={})
    assert checked.exit_code == 0, checked.output


@each_file
def test_it_passes_the_check(file: Path, here: Mapping[str, str], tmp_path: Path) -> None:
    text = adapted(file, here)
    (tmp_path / file.name).write_text(text)
    checked = CliRunner().invoke(main, ["check", str(tmp_path / file.name)], env=secrets(text))
    assert checked.exit_code == 0, checked.output
    assert checked.output.startswith(f"{tmp_path / file.name}: good")


class StandIn(FakeEngine):
    """For one endpoint of an example: it listens in the way that the endpoint's URL says."""

    def __init__(self, endpoint: EndpointConfig, models: list[str], authority: trustme.CA, folder: Path) -> None:
        self.prefix = ""
        if endpoint.url.startswith("unix:"):
            super().__init__([completion()], models=models, unix=folder / "engine.sock")
            return
        url = urlsplit(endpoint.url)
        self.prefix = url.path
        tls = None
        if url.scheme == "https":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(tls)
        super().__init__([completion()], models=models, tls=tls)

    def _page(self, path: bytes) -> bytes:
        prefix = self.prefix.encode()
        assert path.startswith(prefix + b"/")
        return super()._page(path[len(prefix) :])


@contextlib.contextmanager
def folder_for_sockets() -> Iterator[Path]:
    """Unix sockets' paths are short: pytest's folders may be too deep."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@each_file
async def test_it_serves_what_it_says(
    file: Path, here: Mapping[str, str], authority: trustme.CA, tmp_path: Path
) -> None:
    example = adapted(file, here)
    (tmp_path / file.name).write_text(example)
    config = load_file(tmp_path / file.name, secrets(example))
    listed = [model.name for model in config.models] or ["m"]
    stated = {e.name: {m.name: m.served_as or m.name for m in e.models} for e in config.endpoints if e.models}
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(folder_for_sockets())
        engines: dict[str, StandIn] = {}
        for endpoint in config.endpoints:
            engine = StandIn(endpoint, listed, authority, folder)
            engines[endpoint.name] = await stack.enter_async_context(engine)
        text = re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda found: found[1] or "a-secret", example)
        data: dict[str, Any] = yaml.safe_load(text)
        data["server"] = {**data.get("server", {}), "host": "127.0.0.1", "port": 0}
        data["admin"] = {**data.get("admin", {}), "host": "127.0.0.1", "port": 0}
        data["timeouts"] = {**data.get("timeouts", {}), "notice": 0, "drain": 2}
        for endpoint in data["endpoints"]:
            name = endpoint.get("name") or urlsplit(endpoint["url"]).netloc
            endpoint |= {"name": name, "url": engines[name].url + engines[name].prefix}
        endpoints = data.pop("endpoints")
        served = await stack.enter_async_context(serving(*endpoints, **data))
        for model in config.models or ():
            for name in (model.name, *model.aliases):
                places = [place for place in engines if model.name in stated.get(place, {model.name: ""})]
                answered = await served.chat({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
                assert answered.status_code == 200, answered.text
                place = answered.headers["x-llmgate-endpoint"]
                assert place in places
                asked = json.loads(engines[place].asked[-1].body)["model"]
                assert asked == stated.get(place, {}).get(model.name, model.name)
        if not config.models:
            assert (await served.chat({"model": "m", "messages": []})).status_code == 200
        listing = (await served.client.get("/v1/models")).json()
        aliases = {alias for model in config.models for alias in model.aliases}
        assert {card["id"] for card in listing["data"]} >= aliases | {model.name for model in config.models}


MENTIONED = re.findall(r"policy: ([a-z-]+)", (FOLDER / "policies.yaml").read_text())


def test_every_policy_is_mentioned_once() -> None:
    assert registry.BUILT_IN.keys() <= set(MENTIONED)
    assert len(MENTIONED) == len(set(MENTIONED))


@pytest.mark.parametrize("policy", [name for name in MENTIONED if name in registry.BUILT_IN])
def test_each_of_the_policies_can_be_chosen_in_the_file(policy: str) -> None:
    text = (FOLDER / "policies.yaml").read_text()
    lines = [line for line in text.splitlines() if "policy:" not in line or line.endswith(f" {policy}")]
    data = yaml.safe_load("\n".join(line.replace("# policy:", "policy:") for line in lines))
    assert from_data(data, "policies.yaml", {}).router.policy == policy
