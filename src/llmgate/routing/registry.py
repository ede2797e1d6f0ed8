"""From a policy's name and options to a router: the built-in ones, and any that a package offers as an entry point."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from llmgate.core.protocols import Router
from llmgate.routing.least_connections import LeastConnections
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.routing.round_robin import RoundRobin
from llmgate.routing.token_aware import TokenAware

ENTRY_POINT_GROUP = "llmgate.routers"

BUILT_IN: Mapping[str, Callable[..., Router]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "token-aware": TokenAware,
    "prefix-affinity": PrefixAffinity,
}
DEFAULT = "prefix-affinity"


def names() -> list[str]:
    """Every policy that can be named in a configuration."""
    return [*BUILT_IN, *sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - BUILT_IN.keys())]


def create(name: str, options: Mapping[str, Any] | None = None) -> Router:
    """A new router. ValueError says what is wrong with the name or the options, and what is allowed."""
    make = BUILT_IN.get(name) or _third_party(name)
    given: dict[str, Any] = {}
    allowed = _parameters(name, make)
    for key, value in (options or {}).items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"options.{key}: the policy {name!r} has no such option (it has: {known})")
        try:
            given[key] = _like(allowed[key].default, value)
        except ValueError as error:
            raise ValueError(f"options.{key}: {error}") from None
    try:
        router = make(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"options: {error}") from error
    except Exception as error:  # whatever a stranger's class raises
        raise ValueError(
            f"options: the policy {name!r} cannot be made with them: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(router, Router):
        raise ValueError(f"policy: {name!r} is not a llmgate Router but {type(router).__name__}")
    return router


def _parameters(name: str, make: Callable[..., Router]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        raise ValueError(f"policy: {name!r} is not a llmgate Router but {type(make).__name__}") from None


def _like(default: object, value: Any) -> Any:
    """`value` if it may stand for `default`. A variable of the environment is text, also where it means a number."""
    if isinstance(default, bool):
        meant = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(meant, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return meant
    if isinstance(default, int | float):
        meant = _number(value) if isinstance(value, str) else value
        if isinstance(meant, bool) or not isinstance(meant, int | float):
            raise ValueError(f"must be a number, not {value!r}")
        return meant
    return value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _third_party(name: str) -> Callable[..., Router]:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            loaded: Callable[..., Router] = point.load()
        except Exception as error:  # whatever a stranger's module raises at import
            raise ValueError(f"policy: {name!r} could not be loaded from {point.value}: {error}") from error
        return loaded
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names())}"
    raise ValueError(f"policy: there is no policy {name!r}; {hint}")
