"""What a policy may see that the gateway cannot: for bounds, and for peers whose engines tell them more."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from llmgate.core.protocols import Router
from llmgate.core.types import Endpoint, InferenceRequest
from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineRequest


class World(Protocol):
    """The truth, at the moment of a decision: every engine has been advanced to `Candidates.now`."""

    def engine(self, endpoint: Endpoint) -> Engine:
        """The engine behind an endpoint: its cache, its queue, its profile."""

    def open_requests(self, endpoint: Endpoint) -> Collection[EngineRequest]:
        """What it was given and has not ended, in order of arrival there."""

    def engine_request(self, request: InferenceRequest) -> EngineRequest:
        """What `request` really is: true lengths and block ids."""


class SeeingRouter(Router):
    """A policy that only the simulator can run. `see` is called once, before the first decision."""

    world: World

    def see(self, world: World) -> None:
        self.world = world
