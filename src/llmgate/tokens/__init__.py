"""Exact token counts for models whose tokenizer is configured. `tokenizers` and `transformers` are imported lazily."""

from llmgate.tokens.counter import TokenCounter, count_prompt
from llmgate.tokens.errors import TokenizerError
from llmgate.tokens.load import EMBEDDED, find_tokenizer, load_tokenizer

__all__ = ["EMBEDDED", "TokenCounter", "TokenizerError", "count_prompt", "find_tokenizer", "load_tokenizer"]
