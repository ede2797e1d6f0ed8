from __future__ import annotations

from math import inf, nan

import pytest

from llmgate.core.slo import Correction, Prediction, Slo


@pytest.mark.parametrize(
    ("slo", "missed"),
    [
        (Slo(), False),
        (Slo(ttft=1.0), False),
        (Slo(ttft=0.9), True),
        (Slo(tpot=0.05), False),
        (Slo(tpot=0.04), True),
        (Slo(ttft=2.0, tpot=0.04), True),
    ],
)
def test_a_prediction_misses_when_one_of_its_times_is_above_its_target(slo: Slo, missed: bool) -> None:
    assert Prediction(1.0, 0.05).misses(slo) is missed


def test_a_correction_becomes_the_factor_by_which_predictions_are_off() -> None:
    correction = Correction()
    for number in range(400):
        correction.learn(1.0, 1.5 if number % 2 else 6.0)
    assert correction.factor == pytest.approx(3.0, rel=0.1)


def test_one_observation_hardly_corrects_and_a_stall_is_no_trend() -> None:
    correction = Correction()
    correction.learn(1.0, 1e6)
    assert correction.factor < 2.0


@pytest.mark.parametrize(("predicted", "observed"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (nan, 1.0), (1.0, nan)])
def test_what_is_no_time_corrects_nothing(predicted: float, observed: float) -> None:
    correction = Correction()
    correction.learn(predicted, observed)
    assert correction.factor == 1.0


def test_without_targets_nothing_misses() -> None:
    assert not Prediction(inf, 1e9).misses(Slo())
