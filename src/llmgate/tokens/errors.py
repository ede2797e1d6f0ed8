"""The one error of this room."""

from __future__ import annotations


class TokenizerError(Exception):
    """A tokenizer cannot be loaded or cannot count this prompt; one sentence that holds none of the prompt's text."""
