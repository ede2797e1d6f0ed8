"""How fast engines are, learnt online from what they do: seconds of prefill by work, seconds of a decode step by load.

Both are straight lines, `fixed + slope × x`. What their ratio is follows from model and hardware, so a line is shared
by all engines that are alike and changes slowly, while each engine has a factor of its own that changes fast: it may be
throttled or get another neighbour at any time. Few observations would tell the two parts of a line apart for one engine
that always has about the same load; together they do.

Both are followed by Kalman filters whose model is a random walk: the older the last observation, the less certain.
Errors are relative, so that long prompts do not outweigh short ones, and clipped as in Huber's loss. What has not been
seen lately is not forgotten, only held less firmly, and no window is ever divided by.
"""

from __future__ import annotations

from math import sqrt

ATTENTION = 4e-5
"""Work of one pair of query and earlier token, in tokens: 4·layers·hidden against 2·parameters FLOPs at half the
efficiency (engines/roofline.py has 2.5e-5 for Llama 3.1 70B and 5.6e-5 for 8B on H100s). A prompt of 25,000 tokens
costs half as much again for it."""

CONTEXT = 1e-3
"""Load on a decode step of one token of context, in sequences: reading its KV cache (the roofline has 0.4e-3 for Llama
3.1 70B on 4 H100s to 1.3e-3 for 8B on one)."""

_NOISE = 0.35  # standard deviation of an observation, relative: what an engine does besides is not seen
_CLIP = 3.0  # standard deviations
_LINE_WALK = 0.004  # standard deviation of the relative change of a line in a second
_FACTOR_WALK = 0.03  # of an engine's factor: with an observation a second, most of a sudden doubling is learnt in 20 s
_LINE_DOUBT = 1.0  # of the prior, relative; nothing gets less certain than that
_FACTOR_DOUBT = 0.5
_LEAST = 0.02  # of the prior: neither part of a line falls below
_FACTORS = (0.05, 50.0)
MOST = 1e9
"""Seconds, and work or load: an observation of more makes no sense."""
_MOMENT = 0.05
"""Seconds. Learning costs as much as choosing an endpoint, and there may be thousands of answers a second."""
_RETURN_SECONDS = 300.0
"""In which a factor goes back to 1 if nothing is observed: then its engine is as its like are."""


class Line:
    """Seconds as `fixed + slope × x`. Both start at the prior, which must be positive. `fixed_doubt`: standard
    deviation of the prior of `fixed`, relative to it."""

    __slots__ = ("_at", "_ff", "_floor_fixed", "_floor_slope", "_fs", "_most_ff", "_most_ss", "_ss", "fixed", "slope")

    def __init__(self, fixed: float, slope: float, *, fixed_doubt: float = _LINE_DOUBT) -> None:
        self.fixed = fixed
        self.slope = slope
        self._floor_fixed, self._floor_slope = _LEAST * fixed, _LEAST * slope
        self._ff = self._most_ff = (fixed_doubt * fixed) ** 2  # covariance of the two
        self._ss = self._most_ss = (_LINE_DOUBT * slope) ** 2
        self._fs = 0.0
        self._at: float | None = None  # of the last observation

    def __call__(self, x: float) -> float:
        return self.fixed + self.slope * x

    def learn(self, x: float, seconds: float, now: float, observations: int = 1) -> None:
        """`seconds` were taken by `x`, on average of so many observations. Anything that makes no sense is ignored."""
        if not (0.0 <= x < MOST and 0.0 < seconds < MOST):
            return
        ff, fs, ss = self._ff, self._fs, self._ss
        if self._at is not None:
            walk = _LINE_WALK * _LINE_WALK * max(now - self._at, 0.0)
            ff = min(ff + walk * self.fixed * self.fixed, max(self._most_ff, self.fixed * self.fixed))
            ss = min(ss + walk * self.slope * self.slope, max(self._most_ss, self.slope * self.slope))
        self._at = now
        expected = self.fixed + self.slope * x
        one, each = 1.0 / expected, x / expected  # from here on everything is relative to what was expected
        gain_f, gain_s = ff * one + fs * each, fs * one + ss * each
        variance = max(gain_f * one + gain_s * each, 0.0) + _NOISE * _NOISE / observations
        limit = _CLIP * sqrt(variance)
        error = min(max(seconds / expected - 1.0, -limit), limit)
        gain_f /= variance
        gain_s /= variance
        self.fixed = max(self.fixed + gain_f * error, self._floor_fixed)
        self.slope = max(self.slope + gain_s * error, self._floor_slope)
        self._ff = max(ff - gain_f * gain_f * variance, 0.0)
        self._ss = max(ss - gain_s * gain_s * variance, 0.0)
        bound = sqrt(self._ff * self._ss)
        self._fs = min(max(fs - gain_f * gain_s * variance, -bound), bound)


ALIKE = 1.6
"""Engines of one kind that differ by less than this factor are taken to be alike: so much comes by chance, and acting
on it would feed itself (an engine that looks fast gets more work, at which it looks faster still).
Of a larger factor this much is left out too: in the simulator that was better than to count it in full, also with
one engine slowed to half."""


class Speed:
    """One engine's: `factor` times the line that it shares with those like it."""

    __slots__ = ("_at", "_followed", "_observations", "_seconds", "_variance", "_x", "factor", "line")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.factor = 1.0
        self._followed = 1.0  # the factor as observed
        self._variance = _FACTOR_DOUBT**2
        self._at: float | None = None  # of the last observation that was learnt from
        self._observations, self._x, self._seconds = 0, 0.0, 0.0  # since then: how many, and their sums

    def __call__(self, x: float) -> float:
        return self.factor * (self.line.fixed + self.line.slope * x)

    def factor_at(self, now: float) -> float:
        """`factor`, or what is left of it if the last observation is old. An engine that looked slow gets nothing that
        would show that it no longer is."""
        factor, at = self.factor, self._at
        if at is None or factor == 1.0 or now <= at:
            return factor
        return factor + (1.0 - factor) * min((now - at) / _RETURN_SECONDS, 1.0)

    def learn(self, x: float, seconds: float, now: float) -> None:
        """`seconds` were taken by `x`. Anything that makes no sense is ignored. What comes within a moment is learnt
        from as one observation."""
        if not (0.0 <= x < MOST and 0.0 < seconds < MOST):
            return
        self._observations = observations = self._observations + 1
        self._x += x
        self._seconds += seconds
        if self._at is not None and 0.0 <= now - self._at < _MOMENT:
            return
        x, seconds = self._x / observations, self._seconds / observations
        self._observations, self._x, self._seconds = 0, 0.0, 0.0
        factor, variance = self._followed, self._variance
        if self._at is not None:
            passed = max(now - self._at, 0.0)
            factor += (1.0 - factor) * min(passed / _RETURN_SECONDS, 1.0)
            variance = min(variance + _FACTOR_WALK * _FACTOR_WALK * passed, _FACTOR_DOUBT**2)
        self._at = now
        expected = self.line(x)
        uncertain = variance / (factor * factor) + _NOISE * _NOISE / observations
        limit = _CLIP * sqrt(uncertain)
        error = min(max(seconds / (factor * expected) - 1.0, -limit), limit)
        gain = variance / (factor * factor) / uncertain
        self.line.learn(x, seconds / factor, now, observations)
        self._followed = factor = min(max(factor * (1.0 + gain * error), _FACTORS[0]), _FACTORS[1])
        self.factor = factor / ALIKE if factor > ALIKE else factor * ALIKE if factor * ALIKE < 1.0 else 1.0
        self._variance = variance * (1.0 - gain)


def prefill_work(tokens: float, prompt_tokens: float) -> float:
    """Work, in tokens, of computing the last `tokens` of a prompt: they, and their attention to all before them."""
    return tokens * (1.0 + ATTENTION * (prompt_tokens - 0.5 * tokens))


def decode_load(sequences: float, context_tokens: float) -> float:
    """Load of a decode step, in sequences, of so many with so many tokens of context together."""
    return sequences + CONTEXT * context_tokens
