"""Prompts with the lengths and the shared beginnings of a workload.

A block's text depends on its id alone, so equal ids give equal texts and an engine's prefix cache sees the same sharing
as in the recording. Texts are slices of one pool of words, each after a few words that spell its id: a prompt of 10,000
tokens costs a copy of 50 KB, not 10,000 draws.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import linear_regression

from llmgate.bench.words import WORDS
from llmgate.workloads.types import TraceRequest

POOL_WORDS = 1 << 16
SPELLING_WORDS = 4  # 512^4 texts that differ from their beginning on
SPELT = 1 << 36  # what four of 512 words can tell apart
UNSHARED = 1 << 35  # above the ids of traces, below SPELT: texts that belong to one request only
GOLDEN = 0x9E3779B97F4A7C15  # odd, so a bijection modulo powers of 2 (Fibonacci hashing): neighbours far apart


@dataclass(frozen=True, slots=True)
class Sizing:
    """How a tokenizer sees our prompts: `overhead` tokens whatever the text (BOS, the chat template), and then
    `tokens_per_word` for each word. `source` says where that is known from."""

    tokens_per_word: float = 1.0
    overhead: float = 0.0
    source: str = "assumed"


def fit(samples: Sequence[tuple[int, int]], source: str) -> Sizing:
    """The line of least squares through (words, prompt tokens). Raises ValueError if it does not rise."""
    slope, overhead = linear_regression(*zip(*samples, strict=True))
    if slope <= 0:
        raise ValueError("prompt tokens do not grow with the prompt")
    return Sizing(slope, max(overhead, 0.0), source)


class PromptWriter:
    """`words` to write with; `seed` decides all texts."""

    def __init__(self, sizing: Sizing, seed: int = 0, words: Sequence[str] = WORDS) -> None:
        self.sizing = sizing
        self._words = words
        self._seed = seed
        pool = random.Random(f"llmgate bench {seed}").choices(words, k=POOL_WORDS)
        self._pool = "".join(f" {word}" for word in pool).encode("ascii")
        self._offsets = list(accumulate((len(word) + 1 for word in pool), initial=0))

    def sample(self, words: int, number: int) -> bytes:
        """So many words that no other prompt begins with, as long as `number` is another."""
        return self._text(-1 - number, words).lstrip()

    def prompt(self, request: TraceRequest, index: int) -> bytes:
        """About `request.prompt_tokens` tokens of ASCII words; no character of them needs escaping in JSON.

        Never empty: a request of fewer tokens than the overhead gets one word.
        """
        return b"".join(self._parts(request, index)).lstrip() or self._words[0].encode()

    # -----------------------------------------------------------------------------------------------------------------

    def _parts(self, request: TraceRequest, index: int) -> Iterator[bytes]:
        size = request.block_tokens
        whole = min(len(request.blocks), request.prompt_tokens // size)
        for position in range(whole):
            yield self._text(request.blocks[position], self._between(position * size, (position + 1) * size))
        rest = self._between(whole * size, request.prompt_tokens)
        if rest and len(request.blocks) > whole:  # the prompt ends within a block that a later one holds in full
            yield self._text(request.blocks[whole], rest)
        elif rest:
            yield self._text(UNSHARED + index, rest)

    def _between(self, begin: int, end: int) -> int:
        """Words between two positions in tokens. What the template takes is taken from the beginning: there it stands
        in the engine's blocks too. Rounded at positions, not at lengths, so that errors do not add up."""
        return self._words_to(end) - self._words_to(begin)

    def _words_to(self, tokens: int) -> int:
        return max(round((tokens - self.sizing.overhead) / self.sizing.tokens_per_word), 0)

    def _text(self, number: int, words: int) -> bytes:
        """A beginning that no other number has, and on from there in the pool."""
        mixed = number * GOLDEN + self._seed
        left = mixed % SPELT
        spelt = []
        for _ in range(min(words, SPELLING_WORDS)):
            left, digit = divmod(left, len(self._words))
            spelt.append(f" {self._words[digit]}")
        start = (mixed >> 16) % POOL_WORDS
        return "".join(spelt).encode("ascii") + b"".join(self._slices(start, words - len(spelt)))

    def _slices(self, start: int, words: int) -> Iterator[bytes]:
        while words > 0:
            stop = min(start + words, POOL_WORDS)
            yield self._pool[self._offsets[start] : self._offsets[stop]]
            words -= stop - start
            start = 0
