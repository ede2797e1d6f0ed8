from __future__ import annotations

import pytest

from llmgate.sim.units import seconds


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2.0), ("2s", 2.0), ("50ms", 0.05), ("1.5 m", 90.0), ("10min", 600.0), ("1h", 3600.0)]
)
def test_times_are_read_with_their_unit(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "-1s", "2 weeks", "1e3", "nan", "inf", "9" * 400])
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|too long"):
        seconds(text)
