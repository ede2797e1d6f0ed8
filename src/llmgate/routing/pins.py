"""Which endpoint a client's session was sent to."""

from __future__ import annotations

from cachetools import TTLCache

from llmgate.core.types import Endpoint, InferenceRequest


class Pins:
    """Session → endpoint, bounded to `entries` (those not used for longest go first) and each forgotten `ttl` seconds
    after its last use.

    It keeps hashes, not what clients send: those may be long, and may be somebody's name. Sessions are told apart by
    model too.
    """

    __slots__ = ("_homes", "_now", "_pins")

    def __init__(self, entries: int, ttl: float) -> None:
        self._now = 0.0
        self._pins: TTLCache[int, list[Endpoint]] = TTLCache(entries, ttl, timer=lambda: self._now)
        self._homes: dict[Endpoint, list[Endpoint]] = {}
        """A list of one for each endpoint, which all of its pins share: emptied when it leaves, at once for all."""

    def __len__(self) -> int:
        return len(self._pins)

    def home(self, request: InferenceRequest, now: float) -> Endpoint | None:
        """The endpoint that the request's session is pinned to; None without a session or a pin."""
        if request.session is None:
            return None
        self._now = now
        home = self._pins.get(_key(request))
        return home[0] if home else None

    def use(self, request: InferenceRequest, endpoint: Endpoint, now: float) -> None:
        """The request goes to `endpoint`. That pins its session if it has no pin, and prolongs a pin to there. A pin to
        elsewhere stays as it is: it is either used again in time, or runs out."""
        if request.session is None or self.home(request, now) not in (None, endpoint):
            return
        home = self._homes.get(endpoint)
        if home is None:
            home = self._homes[endpoint] = [endpoint]
        self._pins[_key(request)] = home

    def forget(self, endpoint: Endpoint) -> None:
        """It is gone for good: its sessions have no pin."""
        self._homes.pop(endpoint, []).clear()


def _key(request: InferenceRequest) -> int:
    return hash((request.model, request.session))
