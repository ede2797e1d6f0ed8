"""Exact tokens for models whose tokenizer is configured. The tokenizing libraries are imported lazily."""

from llmgate.tokens.counter import Chain, Counted, TokenCounter
from llmgate.tokens.errors import TokenizerError
from llmgate.tokens.load import EMBEDDED, find_tokenizer, load_tokenizer
from llmgate.tokens.prompts import Pending, count_prompt, prepare_prompt

__all__ = [
    "EMBEDDED",
    "Chain",
    "Counted",
    "Pending",
    "TokenCounter",
    "TokenizerError",
    "count_prompt",
    "find_tokenizer",
    "load_tokenizer",
    "prepare_prompt",
]
