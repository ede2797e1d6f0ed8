"""What an operator may do to a running gateway as a whole."""

from __future__ import annotations

from typing import Protocol

from llmgate.config import Config, EndpointConfig
from llmgate.core.types import Endpoint
from llmgate.gateway.admin_views import ReloadView
from llmgate.gateway.comparison_views import ComparisonView


class NameTaken(Exception):
    """There is an endpoint of that name."""


class NothingToReload(Exception):
    """The configuration did not come from a file."""


class Control(Protocol):
    """The runtime is one. Call it on the event loop of the gateway."""

    def effective_config(self) -> Config:
        """The configuration in effect, with the endpoints that there are now."""
        ...

    def is_leaving(self, endpoint: Endpoint) -> bool:
        """It was removed, and something is still in flight there."""
        ...

    async def add_endpoint(self, wanted: EndpointConfig) -> Endpoint:
        """Raises NameTaken, and ValueError if it cannot be used."""
        ...

    async def remove_endpoint(self, endpoint: Endpoint) -> None:
        """It gets no new requests, and is forgotten once nothing is in flight there or the drain time is over."""
        ...

    async def reload(self) -> ReloadView:
        """Raises ConfigError with all that is wrong, and has changed nothing then; NothingToReload."""
        ...

    def policies(self) -> ComparisonView | None:
        """What the other policies would have chosen; None if that is switched off."""
        ...
