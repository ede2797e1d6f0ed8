"""How long an answer will be: a distribution learnt from past answers, by tenant and by size of prompt.

Answers of one model differ a hundredfold, so a mean alone says little. What is kept are histograms of lengths on a
logarithmic scale that fade as answers come. From one follow the mean bounded by max_tokens, E[min(X, m)]; any quantile;
and what is still to come once n tokens have streamed, E[min(X, m) - n | X >= n], the mean residual life of survival
analysis (Klein & Moeschberger, Survival Analysis, 2nd ed., §2.4).

Few answers say little about their like, so each histogram is mixed with a more general one, by n / (n + PRIOR_ANSWERS):
that of a tenant's prompts of one size with the tenant's, a tenant's with the model's, the model's with an exponential
distribution, which of all with its mean assumes least. Both functions above are linear in the distribution but for one
division, so mixing tables mixes distributions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable
from itertools import accumulate, pairwise
from math import exp, exp2, log2
from operator import neg

DEFAULT = 1024
"""Tokens, the mean before any answer."""

STEPS = 4
"""Bins an octave: a bin spans 19 %."""

LONGEST = 2**17
"""Tokens; longer answers count as that long."""

MEMORY = 256
"""Answers learnt from after which one counts 1/e of a new one."""

PRIOR_ANSWERS = 8.0
"""An own history of so many answers weighs as much as the more general one."""

FIRST_GUESS = 0.25
"""The same for a model and the exponential distribution, which is a guess about all models."""

TENANTS = 256
"""Whose histories are kept, of each model; the ones not heard of for longest go first. One takes about 3 KB and as much
for each size of prompt."""

_BINS = STEPS * 17
_EDGES: list[float] = [
    2.0 ** (step / STEPS) for step in range(_BINS + 1)
]  # bin i holds lengths from edge i up to edge i + 1
_WIDTHS = [upper - lower for lower, upper in pairwise(_EDGES)]
_GROWTH = 1.0 + 1.0 / MEMORY
_HEAVY = 1e12
_STALE = 64  # answers after which tables are made anew, which takes 25 µs; sooner while there are few
_UNHEARD_OF = 1e-9  # share of answers; longer ones than that follow no history
_JUMP = 4.0  # an answer counts as at most so many times the longest so far, plus _STEP: a wrong usage moves little
_STEP = 256.0
_EAGER = 512
_SPARSE = 8


class _History:
    """Lengths of answers, mixed with a more general history."""

    __slots__ = ("_counts", "_excess", "_general", "_own", "_total", "_unit", "below", "stale", "survive")

    survive: array[float]  # P(X >= edge), at each edge
    below: array[float]  # E[min(X, edge)]

    def __init__(self, general: _History | None, own: float) -> None:
        self._general = general
        self._own = own  # answers that weigh as much as `general`
        self._counts = array("d", bytes(8 * _BINS))  # by bin, each answer with the unit of its time
        self._excess = array("d", bytes(8 * _BINS))  # the same of lengths above the bin's lower edge
        self._total = 0.0
        self._unit = 1.0  # what an answer weighs now: it grows, instead of all before it shrinking
        self.stale = 0  # answers until its tables are made anew by the next who reads them
        if general is None:
            mean = DEFAULT - 1.0
            self.survive = array("d", [exp((1.0 - edge) / mean) for edge in _EDGES])
            self.below = array("d", [1.0 + mean * (1.0 - exp((1.0 - edge) / mean)) for edge in _EDGES])
        else:
            self.survive, self.below = general.survive, general.below

    def learn(self, length: float) -> None:
        index = int(log2(length) * STEPS)
        if index >= _BINS:
            index = _BINS - 1
        unit = self._unit
        self._counts[index] += unit
        self._excess[index] += unit * (length - _EDGES[index])
        self._total += unit
        self._unit = unit * _GROWTH
        self.stale -= 1

    def renew(self) -> None:
        """Make the tables anew, first those of the more general history."""
        general, total = self._general, self._total
        assert general is not None
        if general.stale < 0:
            general.renew()
        answers = total / self._unit
        share = answers / (answers + self._own)
        scale, rest = share / total, 1.0 - share
        above = list(accumulate(reversed(self._counts), initial=0.0))[::-1]
        rises = [extra + width * more for extra, width, more in zip(self._excess, _WIDTHS, above[1:], strict=True)]
        below = accumulate(rises, initial=total)  # every answer has one token at least
        self.survive = array(
            "d", [scale * own + rest * other for own, other in zip(above, general.survive, strict=True)]
        )
        self.below = array("d", [scale * own + rest * other for own, other in zip(below, general.below, strict=True)])
        self.stale = min(int(answers / 4), _STALE)
        if self._unit > _HEAVY:
            self._counts = array("d", [count / self._unit for count in self._counts])
            self._excess = array("d", [extra / self._unit for extra in self._excess])
            self._total, self._unit = total / self._unit, 1.0


class _Tenant:
    __slots__ = ("sizes", "whole")

    def __init__(self, model: _History) -> None:
        self.whole = _History(model, PRIOR_ANSWERS)
        self.sizes: dict[int, _History] = {}  # by the bits of the prompt's tokens: alike within a factor of two

    def of_size(self, size: int) -> _History:
        history = self.sizes.get(size)
        if history is None:
            history = self.sizes[size] = _History(self.whole, PRIOR_ANSWERS)
        return history


class OutputPredictor:
    """Output tokens of one model's answers. All of them are asked with what is known beforehand: the tokens of the
    prompt, and who asks (any key; clients may make up as many as they like, and None is nobody in particular)."""

    __slots__ = ("_everybody", "_longest", "_tenants", "samples")

    def __init__(self) -> None:
        self._everybody = _Tenant(_History(None, 0.0))
        self._everybody.whole = _History(_History(None, 0.0), FIRST_GUESS)
        self._tenants: OrderedDict[Hashable, _Tenant] = OrderedDict()
        self._longest = _STEP
        self.samples = 0  # answers

    def __len__(self) -> int:
        """Tenants whose histories are kept."""
        return len(self._tenants)

    def expect(self, max_tokens: int | None = None, prompt_tokens: int = 0, tenant: Hashable = None) -> float:
        """The mean; at least 1, at most `max_tokens` where that is a positive number."""
        history = self._history(prompt_tokens, tenant)
        if max_tokens is None:
            return history.below[-1]
        return _at(history.below, max_tokens) if max_tokens > 1 else 1.0

    def quantile(
        self, share: float, max_tokens: int | None = None, prompt_tokens: int = 0, tenant: Hashable = None
    ) -> float:
        """What `share` (between 0 and 1) of such answers do not exceed."""
        survive = self._history(prompt_tokens, tenant).survive
        at = max(bisect_right(survive, share - 1.0, key=neg), 1)
        if at > _BINS:
            length = _EDGES[-1]
        else:
            upper, lower = survive[at], survive[at - 1]
            part = max((lower - (1.0 - share)) / (lower - upper), 0.0) if lower > upper else 1.0
            length = _EDGES[at - 1] * exp2(part / STEPS)
        return length if max_tokens is None else max(1.0, min(length, max_tokens))

    def remaining(
        self, produced: int, max_tokens: int | None = None, prompt_tokens: int = 0, tenant: Hashable = None
    ) -> float:
        """Tokens still expected of an answer that has `produced` so many and has not ended; 0 at its limit."""
        limit = LONGEST if max_tokens is None else max_tokens
        if produced >= limit:
            return 0.0
        if produced <= 1:
            return self.expect(max_tokens, prompt_tokens, tenant) - produced
        history = self._history(prompt_tokens, tenant)
        alive = _at(history.survive, produced)
        if alive < _UNHEARD_OF:
            return min(float(DEFAULT), limit - produced)
        more = (_at(history.below, limit) - _at(history.below, produced)) / alive
        return min(max(more, 0.0), limit - produced)

    def learn(self, completion_tokens: int, prompt_tokens: int = 0, tenant: Hashable = None) -> None:
        """Take in the length of an answer that ran to its end. Zero and less are ignored. Once `_EAGER` answers are
        learnt from, only every `_SPARSE`th is: it costs a fortieth of routing a request."""
        if completion_tokens <= 0:
            return
        self.samples = samples = self.samples + 1
        if samples > _EAGER and samples % _SPARSE:
            return
        length = min(float(completion_tokens), _JUMP * self._longest + _STEP, LONGEST)
        if length > self._longest:
            self._longest = length
        size = prompt_tokens.bit_length()
        everybody = self._everybody
        everybody.whole.learn(length)
        everybody.of_size(size).learn(length)
        if tenant is None:
            return
        known = self._tenants.get(tenant)
        if known is None:
            known = self._tenants[tenant] = _Tenant(everybody.whole)
            if len(self._tenants) > TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(tenant)
        known.whole.learn(length)
        known.of_size(size).learn(length)

    def _history(self, prompt_tokens: int, tenant: Hashable) -> _History:
        """The most particular one that there is."""
        known = self._everybody if tenant is None else self._tenants.get(tenant, self._everybody)
        history = known.sizes.get(prompt_tokens.bit_length(), known.whole)
        if history.stale < 0:
            history.renew()
        return history


def _at(table: array[float], length: float) -> float:
    """Between the edges as on a line."""
    index = int(log2(length) * STEPS)
    if index >= _BINS:
        index, length = _BINS - 1, _EDGES[-1]
    low, high = table[index], table[index + 1]
    return low + (high - low) * (length - _EDGES[index]) / _WIDTHS[index]
