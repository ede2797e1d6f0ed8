"""One engine as vLLM V1 behaves. See EngineProfile for what a step costs."""

from __future__ import annotations

from typing import Protocol

from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import CacheEvent, EngineEvent, EngineRequest, Gauges


class EngineModel(Protocol):
    """What shells may use of an engine. `now` (seconds) never runs backwards; between calls nothing happens."""

    profile: EngineProfile

    def submit(self, request: EngineRequest, now: float) -> None:
        """It has arrived. `advance(now)` must have been called before."""

    def abort(self, request: EngineRequest, now: float) -> bool:
        """Its client has gone. False if it had ended before. Takes effect when the running step ends."""

    def advance(self, now: float) -> list[EngineEvent]:
        """Run all steps that end at `now` or before. Events in order of time."""

    def next_event(self) -> float:
        """When the next event is due if nothing else is submitted or aborted: the time to call `advance` for. inf when
        the engine is idle."""

    def generated(self, request: EngineRequest) -> int:
        """Answer tokens that it has produced by the last step that `advance` ran; 0 before the first."""

    def prefilled(self, request: EngineRequest) -> int:
        """Prompt tokens computed or found in the cache so far."""

    def gauges(self) -> Gauges: ...

    def cached_tokens(self, request: EngineRequest) -> int:
        """Prompt tokens of `request`, submitted or not, that the prefix cache holds now: what an oracle sees."""

    def take_cache_events(self) -> list[CacheEvent]:
        """Since the last call; kept only if the engine was made with `cache_events=True`."""

    def reset(self, now: float) -> list[EngineRequest]:
        """It crashed and forgot all: requests that were open, in order of arrival."""
