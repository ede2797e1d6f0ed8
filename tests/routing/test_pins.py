"""Pins against the plainest map there is: any mix of requests, endpoints that leave, and time."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmgate.core.types import Endpoint, InferenceRequest
from llmgate.routing.pins import Pins
from tests.core.make import endpoint, request

TTL = 300.0
SESSIONS = st.sampled_from(["a", "b", "c", None])
SLOTS = st.integers(0, 2)


def of(session: str | None) -> InferenceRequest:
    made = request()
    made.session = session
    return made


class PinsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pins = Pins(100, TTL)
        self.plain: dict[str, tuple[Endpoint, float]] = {}  # session → endpoint, last use
        self.endpoints = [endpoint(slot=slot) for slot in range(3)]
        self.now = 0.0

    def expected(self, session: str | None) -> Endpoint | None:
        if session is None or session not in self.plain:
            return None
        home, used = self.plain[session]
        return home if self.now < used + TTL else None

    @rule(seconds=st.sampled_from([0.0, 1.0, 100.0, 299.0, 300.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(session=SESSIONS, slot=SLOTS)
    def a_request_goes_somewhere(self, session: str | None, slot: int) -> None:
        chosen = self.endpoints[slot]
        self.pins.use(of(session), chosen, self.now)
        if session is not None and self.expected(session) in (None, chosen):
            self.plain[session] = (chosen, self.now)

    @rule(slot=SLOTS)
    def an_endpoint_is_replaced(self, slot: int) -> None:
        gone = self.endpoints[slot]
        self.pins.forget(gone)
        self.plain = {session: pin for session, pin in self.plain.items() if pin[0] is not gone}
        self.endpoints[slot] = endpoint(slot=slot)

    @invariant()
    def every_session_has_the_home_it_should_have(self) -> None:
        for session in ("a", "b", "c", None):
            assert self.pins.home(of(session), self.now) is self.expected(session)


TestPins = PinsMachine.TestCase
