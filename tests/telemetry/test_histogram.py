from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgate.telemetry.histogram import Exemplar, Histogram, Shape

SHAPE = Shape("seconds", "help", (0.1, 1, 10))


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (0.0, [1, 0, 0, 0]),
        (0.1, [1, 0, 0, 0]),  # a bucket includes its upper bound
        (0.100001, [0, 1, 0, 0]),
        (10, [0, 0, 1, 0]),
        (11, [0, 0, 0, 1]),
    ],
)
def test_an_observation_falls_into_the_first_bucket_that_is_not_below_it(value: float, counts: list[int]) -> None:
    histogram = Histogram(SHAPE)
    histogram.observe(value)
    assert histogram.counts == counts
    assert histogram.sum == value


def test_the_text_form_accumulates_the_buckets_and_ends_with_count_and_sum() -> None:
    histogram = Histogram(SHAPE)
    for value in (0.05, 0.5, 0.75, 100):
        histogram.observe(value)
    text = "# TYPE seconds histogram\n" + histogram.text('model="m"')
    (family,) = text_string_to_metric_families(text)
    assert {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples} == {
        ("seconds_bucket", "0.1"): 1,
        ("seconds_bucket", "1.0"): 3,
        ("seconds_bucket", "10.0"): 3,
        ("seconds_bucket", "+Inf"): 4,
        ("seconds_count", None): 4,
        ("seconds_sum", None): pytest.approx(101.3),
    }
    assert all(sample.labels["model"] == "m" for sample in family.samples)


def test_a_histogram_without_observations_has_no_text_form() -> None:
    assert Histogram(SHAPE).text("") == ""


def test_only_openmetrics_shows_the_last_exemplar_of_each_bucket() -> None:
    histogram = Histogram(SHAPE)
    for value, trace in ((SHAPE.bounds[0] / 2, "a"), (SHAPE.bounds[0] / 4, "b"), (SHAPE.bounds[-1] * 2, "c")):
        histogram.observe(value)
        histogram.exemplify(Exemplar(value, trace, 1_700_000_000.1234))
    plain = histogram.text("").splitlines(keepends=True)
    rich = histogram.text("", openmetrics=True).splitlines(keepends=True)
    assert not any("#" in line for line in plain)
    marked = [line for line in rich if "#" in line]
    assert [line.partition(" # ")[0] + "\n" for line in marked] == [plain[0], plain[len(SHAPE.bounds)]]
    assert marked[0].endswith(f' # {{trace_id="b"}} {SHAPE.bounds[0] / 4} 1700000000.123\n')
