"""The ledger: never negative, settles at most once, returns to zero."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llmgate.core.health import Health
from llmgate.core.ledger import OVERRUN_TOKENS, Charge, Ledger
from llmgate.core.output import OutputPredictor
from llmgate.core.types import Endpoint, EndpointSpec, TerminationCause
from tests.core.make import endpoint, request

TOKENS = st.integers(0, 100_000)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of booking, progress and settling, repeated settling and removed endpoints included."""

    charges: Bundle[Charge] = Bundle("charges")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.endpoints = [endpoint(slot=slot) for slot in range(3)]
        self.seen = list(self.endpoints)
        self.open: list[Charge] = []
        self.booked: dict[Charge, int] = {}

    @rule(target=charges, which=st.integers(0, 2), prompt=TOKENS, output=TOKENS, cached=TOKENS)
    def book(self, which: int, prompt: int, output: int, cached: int) -> Charge:
        charge = self.ledger.book(request(prompt, output), self.endpoints[which], 0.0, cached_tokens=cached)
        self.open.append(charge)
        self.booked[charge] = charge.outstanding_tokens
        return charge

    @rule(charge=charges, tokens=TOKENS)
    def progress(self, charge: Charge, tokens: int) -> None:
        charge.progress(tokens)

    @rule(charge=charges)
    def prefill_done(self, charge: Charge) -> None:
        charge.prefill_done()

    @rule(charge=charges, cause=st.sampled_from(TerminationCause))
    def settle(self, charge: Charge, cause: TerminationCause) -> None:
        assert self.ledger.settle(charge, cause) is (charge in self.open)
        if charge in self.open:
            self.open.remove(charge)

    @rule(charge=consumes(charges), cause=st.sampled_from(TerminationCause))
    def settle_for_good(self, charge: Charge, cause: TerminationCause) -> None:
        self.settle(charge, cause)

    @rule(which=st.integers(0, 2))
    def replace_endpoint(self, which: int) -> None:
        self.endpoints[which] = Endpoint(EndpointSpec("again", "http://again"), which, Health())
        self.seen.append(self.endpoints[which])

    @invariant()
    def loads_are_the_sums_of_open_charges(self) -> None:
        assert self.ledger.open_charges == len(self.open)
        for each in self.seen:
            mine = [charge for charge in self.open if charge.endpoint is each]
            assert each.load.requests == len(mine)
            assert each.load.tokens == sum(charge.outstanding_tokens for charge in mine)
            assert each.load.prefill_tokens >= 0
            assert each.load.decode_tokens >= 0
            # what was booked, whatever of it is done
            assert each.load.kv_tokens == sum(self.booked[charge] for charge in mine)

    def teardown(self) -> None:
        for charge in self.open:
            self.ledger.settle(charge, TerminationCause.COMPLETED)
        assert self.ledger.open_charges == 0
        assert all((e.load.requests, e.load.tokens, e.load.kv_tokens) == (0, 0, 0) for e in self.seen)


TestLedger = LedgerMachine.TestCase


def test_cached_prompt_tokens_are_not_work() -> None:
    there = endpoint()
    Ledger().book(request(1000, 50), there, 0.0, cached_tokens=900)
    assert (there.load.prefill_tokens, there.load.decode_tokens) == (100, 50)


def test_a_request_that_overruns_its_expectation_stays_booked() -> None:
    there = endpoint()
    charge = Ledger().book(request(10, 100), there, 0.0)
    charge.prefill_done()
    charge.progress(5000)
    assert there.load.tokens == OVERRUN_TOKENS


def test_what_an_answer_is_still_expected_to_have_follows_from_answers_that_became_as_long() -> None:
    output = OutputPredictor()
    for length in (50, 2000) * 200:
        output.learn(length)
    there, ledger = endpoint(), Ledger()
    charge = ledger.book(request(10, 1000), there, 0.0, output=output)
    for _ in range(100):
        charge.progress(1)
    assert there.load.decode_tokens == pytest.approx(1900, rel=0.05)
    assert there.load.kv_tokens == pytest.approx(2010, rel=0.05)
    for _ in range(1800):
        charge.progress(1)
    assert there.load.decode_tokens == pytest.approx(100, rel=0.5)
    ledger.settle(charge, TerminationCause.COMPLETED)
    assert (there.load.tokens, there.load.kv_tokens) == (0, 0)


def test_causes_are_counted_once_for_each_charge() -> None:
    ledger, there = Ledger(), endpoint()
    charge = ledger.book(request(), there, 0.0)
    assert ledger.settle(charge, TerminationCause.CLIENT_GONE)
    assert not ledger.settle(charge, TerminationCause.COMPLETED)
    assert ledger.causes == {TerminationCause.CLIENT_GONE: 1}
