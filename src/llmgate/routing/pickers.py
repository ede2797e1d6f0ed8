"""The built-in pickers of profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from random import Random

from llmgate.core.protocols import Picker

LEAST_SCORE = 1e-9
"""A score of 0 is drawn as this: it keeps costs finite, and is never drawn while there is any other."""


@dataclass
class MaxPicker(Picker):
    """The highest score."""

    def costs(self, scores: Sequence[float], random: Random) -> Sequence[float]:
        return [1.0 - score for score in scores]


@dataclass
class WeightedRandomPicker(Picker):
    """By chance, in proportion to the scores: the race of routing/random_choice.py."""

    def costs(self, scores: Sequence[float], random: Random) -> Sequence[float]:
        draw = random.random
        return [-log(1.0 - draw()) / max(score, LEAST_SCORE) for score in scores]


BUILT_IN: Mapping[str, type[Picker]] = {"max": MaxPicker, "weighted-random": WeightedRandomPicker}
