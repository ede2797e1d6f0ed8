"""How much the gateway takes on at once. What is beyond its limits is told so at its head, before its body is read.

The numbers are public, as the protocol compares them for each request; why something is refused is worked out here, for
those that are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from sys import maxsize

from llmgate.core.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Limits:
    in_flight: int = maxsize
    """Requests being served."""
    connections: int = maxsize
    """Of clients. Those beyond it are answered, and closed: a health check gets through."""
    buffered: int = maxsize
    """Bytes of request bodies, of all that are being read or served."""
    lag: float = inf
    """Seconds by which the event loop may be late."""
    send_timeout: float = inf
    """Seconds in which a client must take what waits for it."""
    head_timeout: float = inf
    body_timeout: float = inf
    """Seconds in which it must send a request's head and body, see GuardedProtocol."""


LOADED = "The gateway has as many requests in flight as it takes.", "overloaded_requests"
FULL = "The gateway holds as many bytes of requests as it takes.", "overloaded_memory"
CROWDED = "The gateway has as many connections as it takes.", "overloaded_connections"
LATE = "The gateway is too busy to answer in time.", "overloaded_loop"


class Gate:
    """One for each data port, and one for each connection beyond the limit of connections, which is shut."""

    __slots__ = ("_limits", "_shut", "_was_late", "buffered", "in_flight", "most_buffered", "most_in_flight", "stalled")

    def __init__(self, limits: Limits, shut: tuple[str, str] | None = None) -> None:
        """`shut` says, as an error's message and code, why nothing is taken."""
        self.buffered = 0
        self.stalled = 0  # clients cut off since they took nothing
        self.in_flight: Collection[object] = ()  # the server's tasks
        self._shut = shut
        self._was_late = False
        self.limits = limits

    @property
    def limits(self) -> Limits:
        """Others take effect with the next request."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self.most_in_flight = limits.in_flight if self._shut is None else 0
        self.most_buffered = limits.buffered

    def check(self, announced: int) -> None:
        """Raises Overloaded, for a request that is among those in flight and has so many bytes still to come."""
        if len(self.in_flight) > self.most_in_flight:
            raise self.refusal(len(self.in_flight))
        if self.buffered + announced > self.most_buffered:
            raise Overloaded(*FULL)

    def refusal(self, in_flight: int) -> Overloaded:
        """What to tell a request that is not taken, with so many others in flight."""
        return Overloaded(*(self._shut or (LOADED if in_flight >= self.most_in_flight else FULL)))

    def surplus(self) -> Gate:
        """For a connection beyond the limit."""
        return Gate(self._limits, CROWDED)

    def loop_was_late(self, seconds: float) -> None:
        """A measurement of the event loop. One alone may be of a process that was stopped for a while: requests are
        shed after two in a row above the limit, until one is below it."""
        late = seconds > self._limits.lag
        self._shut = LATE if late and self._was_late else None
        self._was_late = late
        self.limits = self._limits
