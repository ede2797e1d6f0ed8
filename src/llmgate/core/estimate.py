"""How many tokens a prompt has, guessed from its raw bytes and corrected by what the engines report.

A prompt is described by counts of byte classes (`byte_classes`, a few microseconds at any length); a linear model per
served model turns these into tokens (`PromptEstimator`) and learns from each answer's `usage`. How well this does, and
what it costs, is in docs/token-estimates.md; benchmarks/estimate/ prints the table.
"""

from __future__ import annotations

from itertools import repeat
from math import inf, sqrt
from operator import mul, sub
from typing import NamedTuple

# Counting byte classes ---------------------------------------------------------------------------------------------

SAMPLE_BYTES = 3072  # a longer prompt is sampled
_SLICE = 128  # bytes of one slice of the sample: 24 of them, long enough to keep words and runs whole
_ESCAPED_SLICE = 256  # fewer and longer where \uXXXX prevails: each cut spoils one escape

_LOWER = bytes(range(ord("a"), ord("z") + 1))
_UPPER = _LOWER.upper()
_DIGITS = b"0123456789"
_PUNCT = bytes(b for b in range(33, 127) if not chr(b).isalnum()) + b"\xe2"  # E2 leads dashes, curly quotes, arrows
_WIDE2 = bytes([*range(0xC2, 0xE0), *range(0xF0, 0xF5)])
_WIDE3 = bytes([0xE0, 0xE1, *range(0xE3, 0xF5)])
_OTHER = bytes(set(range(256)) - set(_LOWER + _UPPER + _DIGITS + _PUNCT + _WIDE2 + _WIDE3))  # blanks, continuations
_WIDE2_ONLY, _WIDE3_ONLY = bytes(set(_WIDE2) - set(_WIDE3)), bytes(set(_WIDE3) - set(_WIDE2))
_RUN_BITS = bytes(1 if b in _LOWER + _UPPER else 2 if b in _PUNCT else 0 for b in range(256))
_WORD_MASK = int.from_bytes(b"\x01" * (2 * SAMPLE_BYTES), "little")  # an unescaped sample never doubles its length
_PUNCT_MASK = _WORD_MASK << 1
_BASE64 = _LOWER + _UPPER + _DIGITS + b"+/="


class ByteClasses(NamedTuple):
    """What the raw JSON of a prompt is made of. Counts are exact up to SAMPLE_BYTES and scaled from a sample above.

    `words` and `punct_runs` count unbroken runs of letters and of punctuation: tokenizers split there, so these tell
    more than the letters and marks themselves. `wide2` and `wide3` count characters by their length in UTF-8 (Greek,
    Cyrillic, Arabic …; CJK, Indic, Thai …), escaped as \\uXXXX or not; an emoji counts in both. `messages` counts the
    keys `"role"`.
    """

    total: float  # bytes
    letters: float = 0.0
    words: float = 0.0
    upper: float = 0.0
    digits: float = 0.0
    punct: float = 0.0
    punct_runs: float = 0.0
    wide2: float = 0.0
    wide3: float = 0.0
    messages: float = 0.0
    opaque: float = 0.0  # bytes of an embedded image or sound in base64: not text, in none of the counts above
    token_ids: int = 0  # above 0: the prompt is an array of this many token ids, there is nothing to estimate


def byte_classes(data: bytes, *, within: bytes | None = None) -> ByteClasses:
    """Classify the raw JSON bytes of a prompt; never raises, whatever the bytes. Constant time above SAMPLE_BYTES.

    `within`: the prompt that `data` is a later piece of. The classes of a prompt's pieces add up to those of the whole.
    """
    total, whole = len(data), data if within is None else within
    if total <= SAMPLE_BYTES:
        slices, sample = list[memoryview](), data
    else:
        slices, sample = _sampled(memoryview(data))
    scale = total / len(sample) if sample else 1.0
    found = _classify(sample, total, scale, within is None)
    # base64 is 40 % capitals, prose and code 5 %; a short prompt has no room for an image worth the look
    if found.upper * 8 > total and len(whole) > SAMPLE_BYTES and _holds_binary(whole):
        slices = slices or [memoryview(data)[at : at + _SLICE] for at in range(0, total, _SLICE)]
        text = b"".join([piece for piece in slices if piece.tobytes().translate(None, _BASE64)])
        return _classify(text, total, scale, within is None)._replace(opaque=(len(sample) - len(text)) * scale)
    return found


def _sampled(view: memoryview) -> tuple[list[memoryview], bytes]:
    slices = _spread(view, _SLICE)
    sample = b"".join(slices)
    if sample.count(b"\\u", 1024, 1536) > 8:
        slices = _spread(view, _ESCAPED_SLICE)
        sample = b"".join(slices)
    return slices, sample


def _spread(view: memoryview, width: int) -> list[memoryview]:
    """Slices of `width` bytes, evenly spread, the first at the start; SAMPLE_BYTES of them or one slice more."""
    step = (len(view) - width) // (SAMPLE_BYTES // width - 1)
    return [view[at : at + width] for at in range(0, len(view) - width + 1, step)]


def _holds_binary(data: bytes) -> bool:
    return b";base64," in data or b'"input_audio"' in data


def _classify(sample: bytes, total: int, scale: float, beginning: bool) -> ByteClasses:
    if beginning and sample[:1] == b"[" and sample[:8].lstrip(b"[ \t\r\n")[:1].isdigit():
        return ByteClasses(total, token_ids=round(sample.count(b",") * scale) + 1)
    messages = sample.count(b'"role"') * scale
    if beginning and messages:
        messages += 1.0 - scale  # a chat begins with one, so the first is no chance find
    ascii_only = sample.isascii()
    if ascii_only and sample.count(b"\\u") * 128 > len(sample):
        sample = sample.decode("raw_unicode_escape", "ignore").encode("utf-8", "surrogatepass")
        ascii_only = sample.isascii()
    # peel one class off after another: what is left gets short quickly, and its length is the count
    no_lower = sample.translate(None, _LOWER)
    no_letters = no_lower.translate(None, _UPPER)
    no_digits = no_letters.translate(None, _DIGITS)
    marks = no_digits.translate(None, _OTHER)
    wide, wide2, wide3 = b"", 0, 0
    if not ascii_only:
        wide = marks.translate(None, _PUNCT)
        wide2 = len(wide.translate(None, _WIDE3_ONLY))
        wide3 = len(wide.translate(None, _WIDE2_ONLY))
    bits = int.from_bytes(sample.translate(_RUN_BITS), "little")
    edges = bits ^ (bits << 8)  # a run shows at its first byte and at the byte after its last
    return ByteClasses(
        total,
        (len(sample) - len(no_letters)) * scale,
        (edges & _WORD_MASK).bit_count() * 0.5 * scale,
        (len(no_lower) - len(no_letters)) * scale,
        (len(no_letters) - len(no_digits)) * scale,
        (len(marks) - len(wide)) * scale,
        (edges & _PUNCT_MASK).bit_count() * 0.5 * scale,
        wide2 * scale,
        wide3 * scale,
        messages,
    )


# Prompt tokens -----------------------------------------------------------------------------------------------------

# What one more of each costs in tokens, and how wrong that may be for another tokenizer (one sigma). In the order of
# ByteClasses from `letters` to `messages`, then the constant of a chat template; a message costs less than the marks
# and keys of its JSON envelope, hence the negative sign. Least squares on the relative error over SmolLM2's exact
# counts of agent sessions, questions, verse, code, Chinese and Russian prose and chats of these, rounded; `--fit` of
# benchmarks/estimate/run.py repeats it on the prompts that can be shipped and lands close by. The sigmas are judgement.
_PRIOR = (0.03, 1.0, 0.18, 1.1, 0.21, 0.59, 0.88, 1.7, -12.0, 30.0)
_SIGMA = (0.05, 0.3, 0.15, 0.4, 0.2, 0.3, 0.4, 0.8, 8.0, 30.0)
_EAGER = 512
_SPARSE = 16
_LEAST = (0.0,) * 8 + (-inf,) * 2  # more text never costs less
_VARIANCE = tuple(sigma * sigma for sigma in _SIGMA)
_NOISE = 0.08**2  # variance of the relative error that is left when the coefficients are right
_DRIFT = 5e-4  # share of its prior variance that each coefficient regains per answer: a memory of some 2,000 answers
_DRIFT_EVERY = 16  # answers between two such steps: it is a third of the work and need not be done for each
_CLIP = 3.0  # standard deviations: an answer further off moves the model as if it were this far off
_BAND = 8.0  # an estimate stays within this factor of the prior's, so that no wrong usage can make it absurd
_TEMPLATE = 4096  # tokens that a template may add by itself (long built-in system prompts)


class PromptEstimator:
    """Prompt tokens of one model from ByteClasses. One estimate costs about 1 µs, one correction about 15.

    A Kalman filter on the coefficients, which is recursive least squares with forgetting done safely: instead of
    dividing the covariance by a forgetting factor, which grows without bound in directions that traffic does not
    excite (estimator wind-up; Åström & Wittenmark, Adaptive Control, 2nd ed., §11.5), each answer moves it a little
    back towards the prior covariance, which therefore bounds it. The error that is minimised is relative, so long
    prompts do not outweigh short ones, and it is clipped as in Huber's loss, so a wrong `usage` moves little.
    """

    __slots__ = ("_coefficients", "_covariance", "_offered", "samples")

    def __init__(self) -> None:
        self._coefficients = list(_PRIOR)
        self._covariance = [[v if i == j else 0.0 for j in range(len(_PRIOR))] for i, v in enumerate(_VARIANCE)]
        self._offered = 0
        self.samples = 0  # answers learnt from

    def estimate(self, classes: ByteClasses) -> int:
        """Tokens of such a prompt with its chat template; at least 1. Exact for an array of token ids."""
        if classes.token_ids:
            return classes.token_ids
        # sums of products written out: this is done for each request, and map and sum take twice as long
        _, letters, words, upper, digits, punct, runs, wide2, wide3, messages, _, _ = classes
        chat = 1.0 if messages else 0.0  # what is not a chat has no template, so the constant belongs to chats only
        a, b, c, d, e, f, g, h, i, j = self._coefficients
        tokens = a * letters + b * words + c * upper + d * digits + e * punct + f * runs
        tokens += g * wide2 + h * wide3 + i * messages + j * chat
        a, b, c, d, e, f, g, h, i, j = _PRIOR
        prior = a * letters + b * words + c * upper + d * digits + e * punct + f * runs
        prior += g * wide2 + h * wide3 + i * messages + j * chat
        if not 1.0 < prior < tokens * _BAND < prior * _BAND * _BAND:  # near or over the edge, or short
            tokens = _within_band(tokens, prior if prior > 1.0 else 1.0)
        return round(tokens) or 1

    def learn(self, classes: ByteClasses, prompt_tokens: int) -> None:
        """Correct by what the engine counted (`usage.prompt_tokens`). Never raises; impossible counts are ignored, and
        so are prompts with images or sounds, whose tokens do not follow from their text. Once `_EAGER` answers are
        learnt from, only every `_SPARSE`th is: a step costs as much as routing a request."""
        self._offered += 1
        if self.samples >= _EAGER and self._offered % _SPARSE:
            return
        if classes.token_ids or classes.opaque:
            return
        x = _regressors(classes)
        prior = _prior(x)
        if not prior / (2 * _BAND) <= prompt_tokens <= 2 * _BAND * prior + 2 * _TEMPLATE:
            return
        tokens: float = sum(map(mul, self._coefficients, x))
        guess = _within_band(tokens, prior)
        x = [value / guess for value in x]  # from here on everything is relative to the guess
        spread = [sum(map(mul, row, x)) for row in self._covariance]
        # rounding can push the quadratic form of an extreme prompt below 0
        variance = max(sum(map(mul, spread, x)), 0.0) + _NOISE
        limit = _CLIP * sqrt(variance)
        error = min(max((prompt_tokens - tokens) / guess, -limit), limit)
        gain = [value / variance for value in spread]
        self._coefficients = [
            max(c + g * error, least) for c, g, least in zip(self._coefficients, gain, _LEAST, strict=True)
        ]
        self._covariance = [
            list(map(sub, row, map(mul, repeat(g), spread))) for row, g in zip(self._covariance, gain, strict=True)
        ]
        if not self.samples % _DRIFT_EVERY:
            self._drift()
        self.samples += 1

    def _drift(self) -> None:
        keep = (1.0 - _DRIFT) ** _DRIFT_EVERY
        for i, row in enumerate(self._covariance):
            row[:] = [keep * cell for cell in row]
            row[i] += (1.0 - keep) * _VARIANCE[i]


def _regressors(classes: ByteClasses) -> list[float]:
    return [*classes[1:10], 1.0 if classes.messages else 0.0]


def _prior(x: list[float]) -> float:
    tokens: float = sum(map(mul, _PRIOR, x))
    return tokens if tokens > 1.0 else 1.0


def _within_band(tokens: float, prior: float) -> float:
    least, most = prior / _BAND, prior * _BAND + _TEMPLATE
    return least if tokens < least else most if tokens > most else tokens
