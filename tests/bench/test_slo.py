from __future__ import annotations

import pytest

from llmgate.bench.slo import Slo, parse_slo


def test_bounds_are_seconds_unless_they_say_milliseconds() -> None:
    assert parse_slo("ttft=2, tpot=50ms,e2e=30s") == Slo(2.0, 0.05, 30.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a bound"),
        ("latency=3", "'latency' is not a bound"),
        ("ttft", "ttft needs a time"),
        ("ttft=soon", "not 'soon'"),
        ("ttft=0", "above zero"),
        ("ttft=-1", "above zero"),
        ("ttft=nan", "not 'nan'"),
        ("ttft=2m", "not '2m'"),
        ("ttft=1,ttft=2", "given twice"),
        ("ttft=1,", "is not a bound"),
    ],
)
def test_what_is_no_bound_is_refused_with_an_example(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_slo(text)


def test_every_bound_must_be_kept() -> None:
    slo = parse_slo("ttft=1,tpot=100ms")
    assert slo.met(1.0, 0.1, 99.0)
    assert not slo.met(1.01, 0.1, 2.0)
    assert not slo.met(1.0, 0.11, 2.0)


def test_a_bound_on_what_an_answer_does_not_have_is_kept() -> None:
    assert parse_slo("tpot=1ms").met(0.5, None, 0.5)
