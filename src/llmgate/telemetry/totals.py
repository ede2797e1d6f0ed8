"""What was counted of one endpoint until some moment: the difference of two says what happened between them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat, zip_longest
from operator import sub
from typing import NamedTuple


class Totals(NamedTuple):
    requests: int = 0  # that ended
    errors: int = 0  # of them 5xx and broken off
    prompt: int = 0  # tokens
    completion: int = 0
    told_prompt: int = 0  # of `prompt`, by engines that tell what was cached
    cached: int = 0
    ttft: tuple[int, ...] = ()  # counts of its buckets; none is all zeros

    @classmethod
    def sum(cls, parts: Iterable[Totals]) -> Totals:
        columns = tuple(zip(*parts, strict=True))
        if not columns:
            return cls()
        *numbers, ttft = columns
        return cls._make([*map(sum, numbers), tuple(map(sum, zip_longest(*ttft, fillvalue=0)))])

    def since(self, before: Totals) -> Totals:
        ttft = tuple(map(sub, self.ttft, before.ttft or repeat(0)))
        return Totals._make([*map(sub, self[:-1], before[:-1]), ttft])
