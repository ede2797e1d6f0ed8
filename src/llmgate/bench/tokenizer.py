"""Exact sizing by a tokenizer at hand, instead of by an engine's usage."""

from __future__ import annotations

from llmgate.bench.errors import BenchError
from llmgate.bench.prompts import PromptWriter, Sizing, fit
from llmgate.bench.words import WORDS
from llmgate.tokens import TokenCounter, TokenizerError, load_tokenizer

ENOUGH_WORDS = 32  # fewer would make texts that repeat themselves


def exact_writer(path_or_name: str, *, chat: bool, seed: int) -> PromptWriter:
    """A writer whose words are one token each in this tokenizer, so that lengths come out exactly.

    If fewer than 32 words are, the mean over all words is taken. Raises BenchError.
    """
    try:
        counter = load_tokenizer(path_or_name)
    except TokenizerError as error:
        raise BenchError(f"--tokenizer {path_or_name}: {error}") from None

    def count(text: str) -> int:
        return counter.count_chat([{"role": "user", "content": text}]) if chat else counter.count_text(text)

    words = _single_tokens(counter) or WORDS
    sampler = PromptWriter(Sizing(), seed, words)
    try:
        sizes = [(n, count(sampler.sample(n, n).decode())) for n in (64, 2048)]
        return PromptWriter(fit(sizes, "tokenizer"), seed, words)
    except (TokenizerError, ValueError) as error:
        raise BenchError(f"--tokenizer {path_or_name} cannot count our prompts: {error}") from None


def _single_tokens(counter: TokenCounter) -> tuple[str, ...]:
    alone = counter.count_text("the")
    words = tuple(word for word in WORDS if counter.count_text(f"the {word}") == alone + 1)
    return words if len(words) >= ENOUGH_WORDS else ()
