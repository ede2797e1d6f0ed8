from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmgate.config import ConfigError, from_data
from llmgate.core.protocols import Router
from llmgate.routing import registry
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.testing import check_router

MODULE = """
from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest

class Cheapest(Router):
    def __init__(self, margin: float = 0.0, *, label: str = "x", strict: bool = False) -> None:
        if margin < 0:
            raise ValueError("margin must be 0 or more")
        self.margin = margin
        self.strict = strict
        {"x": 1}[label]

    def score(self, request: InferenceRequest, candidates: Candidates) -> list[float]:
        return [float(endpoint.load.tokens) for endpoint in candidates.endpoints]

def not_a_router() -> str:
    return "text"

number = 7
"""
BROKEN = "raise ZeroDivisionError('at import')"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a package that offers routers, as pip would have left it."""
    before = set(sys.modules)

    def make(text: str = MODULE, /, **points: str) -> None:
        (tmp_path / "strangers.py").write_text(text)
        info = tmp_path / "strangers-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = strangers:{attribute}" for name, attribute in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{registry.ENTRY_POINT_GROUP}]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield make
    for name in set(sys.modules) - before:
        if name == "strangers":
            del sys.modules[name]


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_built_in_policy_keeps_the_contract(name: str) -> None:
    check_router(lambda: registry.create(name))


def test_every_call_makes_a_router_of_its_own() -> None:
    assert registry.create("round-robin") is not registry.create("round-robin")


def test_the_default_is_one_of_the_built_in_policies() -> None:
    assert registry.DEFAULT in registry.BUILT_IN


def test_a_policy_of_another_package_is_used_by_its_name(install: Install) -> None:
    install(cheapest="Cheapest")
    assert registry.names() == [*registry.BUILT_IN, "cheapest"]
    router = registry.create("cheapest", {"margin": 2})
    assert isinstance(router, Router)
    assert vars(router) == {"margin": 2, "strict": False}
    check_router(lambda: registry.create("cheapest"))


def test_another_package_cannot_take_the_name_of_a_built_in_policy(install: Install) -> None:
    install(round_robin="Cheapest")
    assert type(registry.create("round-robin")).__name__ == "RoundRobin"
    assert registry.names() == list(registry.BUILT_IN)


def test_a_configuration_may_name_a_policy_of_another_package(install: Install) -> None:
    install(cheapest="Cheapest")
    router = {"policy": "cheapest", "options": {"margin": 0.5}}
    assert from_data({"endpoints": [{"url": "http://a"}], "router": router}, "test", {}).router.policy == "cheapest"
    with pytest.raises(ConfigError, match="margin must be 0 or more"):
        from_data({"endpoints": [{"url": "http://a"}], "router": router | {"options": {"margin": -1}}}, "test", {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("prefix-afinity", "there is no policy 'prefix-afinity'; did you mean prefix-affinity"),
        ("tokenaware", "did you mean token-aware"),
        ("zzz", "there are: round-robin, random, least-connections, power-of-two"),
    ],
)
def test_an_unknown_policy_is_refused_with_the_names_that_are_near(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        registry.create(name)


def test_an_unknown_option_is_refused_with_those_there_are(install: Install) -> None:
    install(cheapest="Cheapest")
    with pytest.raises(ValueError, match=r"options\.speed: .* no such option \(it has: margin, label, strict\)"):
        registry.create("cheapest", {"speed": 1})
    with pytest.raises(ValueError, match=r"no such option \(it has: none\)"):
        registry.create("round-robin", {"speed": 1})


@pytest.mark.parametrize("value", ["much", True, None, [1]])
def test_an_option_that_must_be_a_number_is_refused_as_anything_else(install: Install, value: object) -> None:
    install(cheapest="Cheapest")
    with pytest.raises(ValueError, match=r"options\.margin: must be a number"):
        registry.create("cheapest", {"margin": value})


@pytest.mark.parametrize(("text", "number"), [("4", 4), ("0.5", 0.5), ("1e3", 1000.0)])
def test_a_number_may_come_from_the_environment(install: Install, text: str, number: float) -> None:
    install(cheapest="Cheapest")
    assert vars(registry.create("cheapest", {"margin": text}))["margin"] == number
    router = {"policy": "prefix-affinity", "options": {"patience": "${P:-4}"}}
    config = from_data({"endpoints": [{"url": "http://a"}], "router": router}, "test", {"P": text})
    assert registry.create(config.router.policy, config.router.options) == PrefixAffinity(patience=number)


@pytest.mark.parametrize(("value", "meant"), [(True, True), (False, False), ("true", True), ("False", False)])
def test_an_option_may_be_true_or_false(install: Install, value: object, meant: bool) -> None:
    install(cheapest="Cheapest")
    assert vars(registry.create("cheapest", {"strict": value}))["strict"] is meant


@pytest.mark.parametrize("value", [1, 0, "yes", "", None, []])
def test_an_option_that_must_be_true_or_false_is_refused_as_anything_else(install: Install, value: object) -> None:
    install(cheapest="Cheapest")
    with pytest.raises(ValueError, match=r"options\.strict: must be true or false"):
        registry.create("cheapest", {"strict": value})


def test_whatever_a_policy_raises_is_one_sentence(install: Install) -> None:
    install(cheapest="Cheapest")
    with pytest.raises(ValueError, match=r"options: the policy 'cheapest' cannot be made with them: KeyError: 'y'"):
        registry.create("cheapest", {"label": "y"})
    router = {"policy": "cheapest", "options": {"label": "y"}}
    with pytest.raises(ConfigError, match="KeyError"):
        from_data({"endpoints": [{"url": "http://a"}], "router": router}, "test", {})


def test_a_policy_that_cannot_be_imported_is_named_with_the_reason(install: Install) -> None:
    install(BROKEN, cheapest="Cheapest")
    with pytest.raises(ValueError, match="'cheapest' could not be loaded from strangers:Cheapest: at import"):
        registry.create("cheapest")


def test_what_is_no_router_is_refused(install: Install) -> None:
    install(text="not_a_router", number="number")
    with pytest.raises(ValueError, match="'text' is not a llmgate Router but str"):
        registry.create("text")
    with pytest.raises(ValueError, match="'number' is not a llmgate Router but int"):
        registry.create("number")
