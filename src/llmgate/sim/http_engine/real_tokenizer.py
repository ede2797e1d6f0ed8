"""A model's own tokenizer in place of the built-in rule: exact counts and ids, for some 0.3 ms a KB of prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llmgate.sim.http_engine.tokenizer import WORDS, TokenIds
from llmgate.tokens import TokenizerError, find_tokenizer, load_tokenizer


class RealTokenizer:
    """`path_or_name` as `load_tokenizer` takes it, but there must be a `tokenizer.json`. Raises TokenizerError."""

    def __init__(self, path_or_name: str) -> None:
        from tokenizers import Tokenizer

        self._render = load_tokenizer(path_or_name).render_chat
        path = find_tokenizer(path_or_name)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.exists():
            raise TokenizerError(f"there is no tokenizer.json in {path}: token ids are read from one")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        self.end = self._end()

    def encode(self, text: str) -> TokenIds:
        return self._encode(text, add_special_tokens=True)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, variables: Mapping[str, Any] | None
    ) -> TokenIds:
        try:
            return self._encode(self._render(messages, tools, variables), add_special_tokens=False)
        except TokenizerError as error:
            raise ValueError(str(error)) from None

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def words(self) -> Sequence[tuple[int, str]]:
        """Those words of the built-in list that are one token each. Raises TokenizerError without any."""
        encoded = [(self._encode(f" {word}", add_special_tokens=False), f" {word}") for word in WORDS]
        words = [(int(ids[0]), text) for ids, text in encoded if len(ids) == 1]
        if not words:
            raise TokenizerError("this tokenizer has none of the words that answers are made of; leave --tokenizer out")
        return words

    def _encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        clean = text.encode("utf-8", "replace").decode()
        return np.array(self._tokenizer.encode(clean, add_special_tokens=add_special_tokens).ids, np.uint32)

    def _end(self) -> int:
        """The id of the token that ends an answer; where none has a known name, the last."""
        for name in ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>", "<|endoftext|>", "[SEP]"):
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return int(found)
        return self.vocabulary - 1
