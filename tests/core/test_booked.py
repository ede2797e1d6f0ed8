"""Rules of core/booked.py."""

from __future__ import annotations

from llmgate.core.booked import SECONDS, STEP, RecentBookings

KEYS = [1000 + block for block in range(5 * STEP + 3)]


def test_what_was_just_sent_somewhere_is_about_to_be_there() -> None:
    bookings = RecentBookings()
    bookings.record(KEYS, 2, now=0.0)
    bookings.record(KEYS[: 2 * STEP], 7, now=1.0)
    assert bookings.matched(KEYS, now=1.0) == {2: 5 * STEP, 7: 2 * STEP}
    assert bookings.matched(KEYS[: 3 * STEP - 1], now=1.0) == {2: 2 * STEP, 7: 2 * STEP}
    assert bookings.matched([0, *KEYS], now=1.0) == {}


def test_a_booking_counts_for_a_while() -> None:
    bookings = RecentBookings()
    bookings.record(KEYS, 2, now=5.0)
    assert bookings.matched(KEYS, now=5.0 + SECONDS - 0.1)
    assert not bookings.matched(KEYS, now=5.0 + 2 * SECONDS + 0.1)


def test_bookings_of_two_turns_are_counted_together() -> None:
    bookings = RecentBookings()
    bookings.record(KEYS, 2, now=0.0)
    bookings.record(KEYS[:STEP], 3, now=SECONDS + 1)
    assert bookings.matched(KEYS, now=SECONDS + 1) == {2: 5 * STEP, 3: STEP}


def test_an_endpoint_that_left_is_forgotten() -> None:
    bookings = RecentBookings()
    bookings.record(KEYS, 2, now=0.0)
    bookings.forget(2)
    assert bookings.matched(KEYS, now=0.0) == {}
