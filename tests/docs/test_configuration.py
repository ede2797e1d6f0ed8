from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from llmgate.config import Config, load_file
from llmgate.core.hardware import PRIORS
from llmgate.routing import registry
from tests.docs.pages import ROOT, blocks, read, rows

KEYS = {key.strip("`"): default for key, default, *_ in rows(read("docs/configuration.md")) if key.startswith("`")}
WORDS = {
    "endpoints[].name": "host:port",
    "endpoints[].engine": "detected",
    "endpoints[].models": "learnt",
}
"""Defaults that are worked out."""


def schema(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every key with its default and whether it is required; sections and lists of them are walked into."""
    for name, field in model.model_fields.items():
        inner = next((t for t in _models(field.annotation)), None)
        is_list = "list" in str(field.annotation)
        default = field.get_default(call_default_factory=True)
        if inner is None or (path and not isinstance(default, BaseModel)):
            yield path + name, default, field.is_required()
        if inner is not None:
            yield from schema(inner, f"{path}{name}[]." if is_list else f"{path}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def shown(value: Any) -> str:
    """A default as the tables write it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, int | float) else str(value) if value else "empty"


def test_every_key_is_documented_and_no_other() -> None:
    assert set(KEYS) == {key for key, _, _ in schema(Config)}


@pytest.mark.parametrize(("key", "default", "required"), list(schema(Config)), ids=lambda value: str(value))
def test_every_default_is_right(key: str, default: Any, required: bool) -> None:
    assert KEYS[key] == ("required" if required else WORDS.get(key, shown(default)))


def test_the_weights_of_gpus_are_right() -> None:
    names = "|".join(re.findall(r"^\| GPU \|(.*)\|$", read("docs/configuration.md"), re.MULTILINE))
    weights = "|".join(re.findall(r"^\| weight \|(.*)\|$", read("docs/configuration.md"), re.MULTILINE))
    table = dict(zip(names.lower().replace(" ", "").split("|"), map(float, weights.split("|")), strict=True))
    assert table == PRIORS


@pytest.mark.parametrize("policy", list(registry.BUILT_IN))
def test_the_options_of_a_policy_are_on_its_page(policy: str) -> None:
    page = read(f"docs/policies/{policy}.md")
    table = {key.strip("`"): float(default) for key, default, *_ in rows(page) if key.startswith("`")}
    parameters = inspect.signature(registry.BUILT_IN[policy]).parameters
    assert table == {name: parameter.default for name, parameter in parameters.items()}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_valid(file: Path) -> None:
    named = re.findall(r"\$\{(\w+)\}", file.read_text())
    config = load_file(file, dict.fromkeys(named, "secret"))
    assert config.endpoints


def test_every_example_is_on_the_page() -> None:
    for file in (ROOT / "configs").glob("*.yaml"):
        assert f"(../configs/{file.name})" in read("docs/configuration.md")


def test_kubernetes_probes_ask_pages_that_exist_and_wait_long_enough() -> None:
    (block,) = blocks(read("deploy/README.md"), "yaml")
    spec = yaml.safe_load(block)["spec"]
    (container,) = spec["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert spec["terminationGracePeriodSeconds"] > longest_shutdown()


def test_systemd_waits_long_enough() -> None:
    unit = dict(line.split("=", 1) for line in read("deploy/llmgate.service").splitlines() if re.match(r"\w+=", line))
    assert float(unit["TimeoutStopSec"]) > longest_shutdown()


def longest_shutdown() -> float:
    defaults: Mapping[str, Any] = {key: default for key, default, _ in schema(Config)}
    return float(defaults["timeouts.notice"] + defaults["timeouts.drain"] + 5)
