"""Everything that a configuration can name under `router`: policies, and the parts of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmgate.core.protocols import Filter, Picker, Router, Scorer
from llmgate.routing import filters, pickers, scorers
from llmgate.routing.catalogue import Catalogue
from llmgate.routing.expected_latency import ExpectedLatency
from llmgate.routing.hardware_weighted import HardwareWeighted
from llmgate.routing.least_connections import LeastConnections
from llmgate.routing.least_latency import LeastLatency
from llmgate.routing.power_of_two import PowerOfTwo
from llmgate.routing.prefix_affinity import PrefixAffinity
from llmgate.routing.random_choice import RandomChoice
from llmgate.routing.round_robin import RoundRobin
from llmgate.routing.session_affinity import SessionAffinity
from llmgate.routing.token_aware import TokenAware

ENTRY_POINT_GROUP = "llmgate.routers"

BUILT_IN: Mapping[str, type[Router]] = {
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "least-connections": LeastConnections,
    "power-of-two": PowerOfTwo,
    "token-aware": TokenAware,
    "least-latency": LeastLatency,
    "prefix-affinity": PrefixAffinity,
    "session-affinity": SessionAffinity,
    "hardware-weighted": HardwareWeighted,
    "expected-latency": ExpectedLatency,
}
DEFAULT = "expected-latency"
DEFAULT_PICKER = "max"

POLICIES: Catalogue[Router] = Catalogue("policy", "policy", Router, BUILT_IN, ENTRY_POINT_GROUP)  # type: ignore[type-abstract]
FILTERS: Catalogue[Filter] = Catalogue("filter", "type", Filter, filters.BUILT_IN, "llmgate.filters")  # type: ignore[type-abstract]
SCORERS: Catalogue[Scorer] = Catalogue("scorer", "type", Scorer, scorers.BUILT_IN, "llmgate.scorers")  # type: ignore[type-abstract]
PICKERS: Catalogue[Picker] = Catalogue("picker", "picker", Picker, pickers.BUILT_IN)  # type: ignore[type-abstract]


def names() -> list[str]:
    """Every policy that can be named in a configuration."""
    return POLICIES.names()


def create(name: str, options: Mapping[str, Any] | None = None) -> Router:
    """A new router. ValueError says what is wrong with the name or the options, and what is allowed."""
    return POLICIES.create(name, options)
