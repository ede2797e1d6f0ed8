"""Rules of core/booked.py."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmgate.core.booked import CHECKS, STEP, Bookings
from llmgate.core.ledger import Charge, Ledger
from llmgate.core.types import TerminationCause
from tests.core import make

KEYS = [1000 + block for block in range(5 * STEP + 3)]


def charge(slot: int) -> Charge:
    return Ledger().book(make.request(), make.endpoint(slot=slot), 0.0)


def test_what_was_just_sent_somewhere_is_about_to_be_there() -> None:
    bookings = Bookings()
    bookings.record(KEYS, charge(2))
    bookings.record(KEYS[: 2 * STEP], charge(7))
    assert bookings.matched(KEYS) == {2: 5 * STEP, 7: 2 * STEP}
    assert bookings.matched(KEYS[: 3 * STEP - 1]) == {2: 2 * STEP, 7: 2 * STEP}
    assert bookings.matched([0, *KEYS]) == {}


def test_a_booking_counts_until_its_answer_begins_or_will_never_come() -> None:
    bookings, ledger = Bookings(), Ledger()
    answered, failed = (ledger.book(make.request(), make.endpoint(slot=slot), 0.0) for slot in (0, 1))
    bookings.record(KEYS, answered)
    bookings.record(KEYS, failed)
    answered.prefill_done()
    assert bookings.matched(KEYS) == {1: 5 * STEP}
    ledger.settle(failed, TerminationCause.UPSTREAM_ERROR)
    assert bookings.matched(KEYS) == {}
    assert len(bookings) == 0


def test_one_that_waits_for_long_does_not_keep_the_others() -> None:
    bookings = Bookings()
    waiting = charge(0)
    bookings.record(KEYS, waiting)
    for _ in range(1000):
        done = charge(1)
        bookings.record(KEYS, done)
        done.prefill_done()
        assert len(bookings) <= CHECKS
    assert bookings.matched(KEYS) == {0: 5 * STEP}


class ManyBookings(RuleBasedStateMachine):
    """Against all that is open, with fewer bookings than are looked at with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.bookings = Bookings()
        self.open: list[tuple[Charge, list[int]]] = []

    CHAINS = st.lists(st.integers(0, 1), max_size=6).map(
        lambda parts: [hash(tuple(parts[: at // STEP + 1])) * 100 + at for at in range(len(parts) * STEP)]
    )

    @rule(chain=CHAINS, slot=st.integers(0, 3))
    def record(self, chain: list[int], slot: int) -> None:
        if len(self.open) < CHECKS:
            made = charge(slot)
            self.bookings.record(chain, made)
            self.open.append((made, chain))

    @rule(which=st.integers(0, CHECKS))
    def done(self, which: int) -> None:
        if self.open:
            self.open.pop(which % len(self.open))[0].prefill_done()

    @rule(slot=st.integers(0, 3))
    def forget(self, slot: int) -> None:
        self.bookings.forget(slot)
        self.open = [entry for entry in self.open if entry[0].endpoint.slot != slot]

    @rule(chain=CHAINS)
    def look(self, chain: list[int]) -> None:
        expected: dict[int, int] = {}
        for made, booked in self.open:
            common = sum(one == other for one, other in zip(chain, booked, strict=False)) // STEP * STEP
            if common:
                slot = made.endpoint.slot
                expected[slot] = max(expected.get(slot, 0), common)
        assert self.bookings.matched(chain) == expected

    @invariant()
    def nothing_is_left_behind(self) -> None:
        self.bookings.matched(())
        assert len(self.bookings) == sum(bool(chain) for _, chain in self.open)


TestManyBookings = ManyBookings.TestCase
