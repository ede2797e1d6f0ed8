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
    given = dict(options or {})
    allowed = inspect.signature(make).parameters
    for key, value in given.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"options.{key}: the policy {name!r} has no such option (it has: {known})")
        default = allowed[key].default
        if isinstance(default, int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"options.{key}: must be a number, not {value!r}")
    try:
        router = make(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"options: {error}") from error
    if not isinstance(router, Router):
        raise ValueError(f"policy: {name!r} is not a llmgate Router but {type(router).__name__}")
    return router


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
