"""An engine that can be slowed down while it runs: a throttled GPU, a noisy neighbour."""

from __future__ import annotations

from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineEvent, EngineRequest


class PacedEngine(Engine):
    """An Engine whose own time passes `1/factor` as fast as the world's, from each `slow` on. Steps under way stretch
    too. Callers speak of the world's time, and hear of it."""

    _factor = 1.0
    _changed_at = 0.0  # the world's time of the last change
    _own_then = 0.0  # the engine's own at that moment

    def slow(self, factor: float, now: float) -> list[EngineEvent]:
        """Everything takes `factor` times as long as it would by the profile; 1 ends it. Events up to `now`."""
        events = self.advance(now)
        self._own_then, self._changed_at, self._factor = self._own(now), now, factor
        return events

    def submit(self, request: EngineRequest, now: float) -> None:
        super().submit(request, self._own(now))

    def abort(self, request: EngineRequest, now: float) -> bool:
        return super().abort(request, self._own(now))

    def advance(self, now: float) -> list[EngineEvent]:
        events = super().advance(self._own(now))
        if self._factor == 1.0 and self._own_then == self._changed_at:
            return events
        return [event._replace(at=min(self._world(event.at), now)) for event in events]

    def next_event(self) -> float:
        return self._world(super().next_event())

    def reset(self, now: float) -> list[EngineRequest]:
        return super().reset(self._own(now))

    def _own(self, now: float) -> float:
        return self._own_then + (now - self._changed_at) / self._factor

    def _world(self, own: float) -> float:
        return self._changed_at + (own - self._own_then) * self._factor
