"""An operator's side of a gateway that is not there."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmgate.config import Config, ConfigError, EndpointConfig
from llmgate.core.health import Health
from llmgate.core.types import Endpoint, EndpointSpec
from llmgate.gateway.admin_views import ReloadView
from llmgate.gateway.comparison_views import ComparisonView
from tests.support.serving import config


@dataclass
class FakeControl:
    """`calls` is what it was asked to do; a reload fails with `problems`, if there are any."""

    calls: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    leaving: bool = False
    compared: ComparisonView | None = None

    def effective_config(self) -> Config:
        return config("http://127.0.0.1:1", admin={"token": "canary"})

    def is_leaving(self, endpoint: Endpoint) -> bool:
        return self.leaving

    async def add_endpoint(self, wanted: EndpointConfig) -> Endpoint:
        self.calls.append(f"add {wanted.name}")
        return Endpoint(EndpointSpec(wanted.name, wanted.url), 9, Health())

    async def remove_endpoint(self, endpoint: Endpoint) -> None:
        self.calls.append(f"remove {endpoint.name}")

    async def reload(self) -> ReloadView:
        self.calls.append("reload")
        if self.problems:
            raise ConfigError("llmgate.yaml", self.problems)
        return ReloadView(added=["b"], removed=[], changed=[], sections=["router"])

    def policies(self) -> ComparisonView | None:
        return self.compared
