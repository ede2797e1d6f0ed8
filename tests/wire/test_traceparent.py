from __future__ import annotations

import pytest

from llmgate.wire.traceparent import Parent, parse_traceparent, with_traceparent, without_trace

TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


def test_the_ids_and_whether_it_is_recorded() -> None:
    for flags, sampled in ((b"00", False), (b"01", True), (b"03", True), (b"02", False)):
        found = parse_traceparent([b"00-%b-%b-%b" % (TRACE, SPAN, flags)])
        assert found == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


def test_a_version_that_is_to_come_may_say_more() -> None:
    assert parse_traceparent([b"cc-%b-%b-01-what-the-future-brings" % (TRACE, SPAN)])
    assert parse_traceparent([b"cc-%b-%b-01" % (TRACE, SPAN)])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"cc-%b-%b-01.x" % (TRACE, SPAN),
        b"00-%b-%b" % (TRACE, SPAN),
    ],
)
def test_what_is_not_allowed_is_as_if_there_were_none(value: bytes) -> None:
    assert parse_traceparent([value]) is None


def test_of_several_none_counts() -> None:
    good = b"00-%b-%b-01" % (TRACE, SPAN)
    assert parse_traceparent([good, good]) is None
    assert parse_traceparent([]) is None


def test_a_parent_is_put_in_place_of_the_clients_and_the_state_stays() -> None:
    mine = b"00-%b-0000000000000001-01" % TRACE
    sent = [(b"traceparent", b"00-%b-%b-01" % (TRACE, SPAN)), (b"tracestate", b"v=1"), (b"x", b"y")]
    assert with_traceparent(sent, mine) == [(b"tracestate", b"v=1"), (b"x", b"y"), (b"traceparent", mine)]
    assert without_trace(sent) == [(b"x", b"y")]
