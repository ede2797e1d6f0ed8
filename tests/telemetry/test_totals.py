from __future__ import annotations

from llmgate.telemetry.totals import Totals


def test_the_sum_of_nothing_is_nothing() -> None:
    assert Totals.sum([]) == Totals()


def test_sums_and_differences_go_field_by_field_and_bucket_by_bucket() -> None:
    a = Totals(1, 2, 3, 4, 5, 6, (1, 0, 2))
    assert Totals.sum([a, Totals(), a]) == Totals(2, 4, 6, 8, 10, 12, (2, 0, 4))
    assert Totals.sum([a, a]).since(a) == a
    assert a.since(Totals()) == a
