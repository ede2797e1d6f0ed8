"""From what `--policy` says to a router: a registered policy, the oracle, or any Router class by its Python name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping

from llmgate.core.protocols import Router
from llmgate.routing import registry
from llmgate.routing.catalogue import Catalogue
from llmgate.sim.oracle import Oracle

BUILT_IN: Mapping[str, type[Router]] = {**registry.BUILT_IN, "oracle": Oracle}

POLICIES: Catalogue[Router] = Catalogue("policy", "policy", Router, BUILT_IN, registry.ENTRY_POINT_GROUP)  # type: ignore[type-abstract]

EVERY = "all"
"""Stands for every built-in policy."""


def every_name() -> list[str]:
    return list(BUILT_IN)


def make_router(text: str) -> Router:
    """A new router from `NAME`, `package.module:Class`, or either with `:key=value,key=value` after it.

    ValueError says what is wrong, and names the nearest policies or options.
    """
    name, options = _split(text)
    if ":" not in name:
        return POLICIES.create(name, options)
    loaded = _load(name)
    return Catalogue("policy", "policy", Router, {name: loaded}).create(name, options)  # type: ignore[type-abstract]


def _split(text: str) -> tuple[str, dict[str, str]]:
    match = re.fullmatch(r"(?P<name>[^:=,]+(?::[^:=,]+)?)(?::(?P<options>[^:]*=.*))?", text.strip())
    if match is None:
        raise ValueError(f"policy: {text!r}: write NAME or package.module:Class, then :key=value,key=value if need be")
    options: dict[str, str] = {}
    for pair in (match["options"] or "").split(",") if match["options"] else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"policy: {text!r}: {pair!r} is no option; write key=value,key=value")
        options[key.strip()] = value.strip()
    return match["name"], options


def _load(reference: str) -> Callable[..., Router]:
    module_name, _, class_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a stranger's module raises at import
        raise ValueError(f"policy: {reference!r}: {module_name} could not be imported: {error}") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Router)):
        routers = [name for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, Router)]
        there = f"its routers are: {', '.join(routers)}" if routers else "it has no Router"
        raise ValueError(f"policy: {module_name} has no Router named {class_name!r}; {there}")
    return found
