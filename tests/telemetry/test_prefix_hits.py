from __future__ import annotations

from math import e

import pytest

from llmgate.telemetry.prefix_hits import SECONDS, PrefixHits


def test_the_ratio_is_of_tokens_not_of_requests() -> None:
    hits = PrefixHits()
    assert hits.ratio is None
    hits.observe(0, 100, 0.0)
    hits.observe(900, 900, 0.0)
    assert hits.ratio == 0.9


def test_what_ended_long_ago_counts_for_less() -> None:
    hits = PrefixHits()
    hits.observe(100, 100, 0.0)
    hits.observe(0, 100, SECONDS)
    assert hits.ratio == pytest.approx(1 / e / (1 / e + 1))


def test_a_quiet_time_alone_changes_nothing_and_a_clock_that_stands_is_no_harm() -> None:
    hits = PrefixHits()
    hits.observe(50, 100, 7.0)
    hits.observe(50, 100, 7.0)
    assert hits.ratio == 0.5
    hits.observe(0, 0, 1e9)
    assert hits.ratio is None, "nothing is left of them"
