"""Exact prompt tokens: what an engine with the same tokenizer and template counts, and the ids that it computes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmgate.tokens.errors import TokenizerError
from llmgate.tokens.memory import Piece, PieceMemory
from llmgate.tokens.probes import CODE, SCRIPTS

if TYPE_CHECKING:  # jinja2 costs 12 MB, which only a configured tokenizer shall cost
    from llmgate.tokens.chat_template import ChatTemplate, Message
    from llmgate.tokens.cuts import Cutter
    from llmgate.tokens.encoders import Encoder, Ids

MEMORY_BYTES = 32 * 2**20
"""For the beginnings of chats, of each tokenizer: some 60,000 messages."""

_NOTHING: Ids = array("I")
_NO_KEYS: array[int] = array("Q")


class Chain(NamedTuple):
    """How chain keys are made of ids: `keys_of(ids, block_tokens, seed)` gives those of whole blocks, and goes on from
    the last key when that is the seed."""

    keys_of: Callable[[Sequence[int], int, int], Sequence[int]]
    block_tokens: int
    seed: int


class Counted(NamedTuple):
    tokens: int
    keys: Sequence[int] = ()  # of the whole blocks; none without a Chain


class Prepared:
    """A prompt of which some of the beginning may be known; `finish` encodes the rest."""

    __slots__ = ("_chain", "_counter", "_known", "_names", "_pieces", "unknown_bytes")

    def __init__(self, counter: TokenCounter, pieces: list[bytes], chain: Chain | None) -> None:
        kind = b"" if chain is None else b"%d %d" % (chain.block_tokens, chain.seed)
        self._counter = counter
        self._chain = chain
        self._names = counter.memory.names(pieces[:-1], kind)  # the last piece never begins another prompt
        self._known = counter.memory.known(self._names)
        self._pieces = pieces[len(self._known) :]
        self.unknown_bytes = sum(map(len, self._pieces))

    def finish(self) -> Counted:
        """Raises TokenizerError. Takes about `unknown_bytes` times the counter's `seconds_per_byte`."""
        chain, pieces = self._chain, self._known
        known = len(pieces)
        if chain is None:
            pieces = pieces + [Piece(len(self._encode(piece)), _NO_KEYS, _NOTHING) for piece in self._pieces]
        else:
            last = next((piece.keys[-1] for piece in reversed(pieces) if piece.keys), chain.seed)
            rest = pieces[-1].rest if pieces else _NOTHING
            for text in self._pieces:
                ids = self._encode(text)
                open_ids = rest + ids
                keys = array("Q", chain.keys_of(open_ids, chain.block_tokens, last))
                rest = open_ids[len(keys) * chain.block_tokens :]
                last = keys[-1] if keys else last
                pieces.append(Piece(len(ids), keys, rest))
        self._counter.memory.keep(self._names[known:], pieces[known : len(self._names)])
        tokens = sum(piece.tokens for piece in pieces)
        if chain is None:
            return Counted(tokens)
        everything = array("Q")
        for piece in pieces:
            everything += piece.keys
        return Counted(tokens, everything)

    def _encode(self, text: bytes) -> Ids:
        return self._counter.encode(text.decode())


class TokenCounter:
    """Ids and counts of one tokenizer with its chat template. Made by `load_tokenizer`; safe to use from several
    threads. Every method raises TokenizerError for a prompt that it cannot do."""

    def __init__(
        self,
        encoder: Encoder,
        template: ChatTemplate,
        tool_template: ChatTemplate | None = None,
        cut: Cutter | None = None,
        tool_cut: Cutter | None = None,
    ) -> None:
        """`tool_template` serves requests with tools where a model has a template of its own for them. The cutters say
        where chats may be cut without changing their ids."""
        self._encoder = encoder
        self._templates = (template, tool_template or template)
        self._cuts = (cut, tool_cut if tool_template else cut)
        self.library = encoder.library
        self.memory = PieceMemory(MEMORY_BYTES)
        self.seconds_per_byte = _pace(encoder)

    # Ids

    def chat_ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Ids:
        """Of a chat as rendered by the template, which brings its own special tokens. Images and sounds have none."""
        return self.encode(_clean(self.render_chat(messages, tools, variables)))

    def text_ids(self, text: str) -> Ids:
        """Of a plain prompt, with what the tokenizer adds around it (BOS, for many)."""
        return self._encoder.before + self.encode(_clean(text)) + self._encoder.after

    def encode(self, text: str) -> Ids:
        """Of a text without lone surrogates, with nothing added."""
        try:
            return self._encoder.encode(text)
        except Exception as error:
            raise TokenizerError(f"the tokenizer cannot encode this prompt ({type(error).__name__})") from None

    # Counts

    def count_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> int:
        return len(self.chat_ids(messages, tools, variables))

    def count_text(self, text: str) -> int:
        return len(self.text_ids(text))

    def count_input(self, prompt: object) -> int:
        """Of a `prompt` or `input` field: a string, a list of strings, token ids, or lists of token ids."""
        return self.read_input(prompt, None).tokens

    # Counts and chain keys

    def prepare_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
        chain: Chain | None = None,
    ) -> Prepared:
        """Renders the chat, and looks up what is known of it. Takes some µs a KB and a message."""
        text = self.render_chat(messages, tools, variables)
        try:
            data = text.encode()
        except UnicodeEncodeError:
            data = _clean(text).encode()
        cut = self._cuts[bool(tools)]
        return Prepared(self, [data] if cut is None else cut(data), chain)

    def read_input(self, prompt: object, chain: Chain | None) -> Counted:
        """As `count_input`; a list of several prompts has no keys."""
        if isinstance(prompt, str):
            return _counted(self.text_ids(prompt), chain)
        if isinstance(prompt, list):
            if len(prompt) == 1 and isinstance(prompt[0], (str, list)):
                return self.read_input(prompt[0], chain)
            if all(isinstance(part, str) for part in prompt):
                return Counted(sum(map(self.count_text, prompt)))
            if all(isinstance(part, int) for part in prompt):
                return _counted(_as_ids(prompt), chain)
            if all(isinstance(part, list) for part in prompt):
                return Counted(sum(map(self.count_input, prompt)))
        raise TokenizerError("the prompt is neither text nor token ids")

    def render_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """A chat as the engine's model reads it. Raises TokenizerError if the template refuses the messages."""
        return self._templates[bool(tools)].render(messages, tools, variables)


def _counted(ids: Ids, chain: Chain | None) -> Counted:
    if chain is None:
        return Counted(len(ids))
    return Counted(len(ids), chain.keys_of(ids, chain.block_tokens, chain.seed))


def _as_ids(numbers: list[int]) -> Ids:
    try:
        return array("I", numbers)
    except OverflowError:
        raise TokenizerError("the prompt holds numbers that are no token ids") from None


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _pace(encoder: Encoder) -> float:
    """Seconds that a byte takes, as of the best of some tries on text and code: other work only makes it slower."""
    text = "\n".join((SCRIPTS[0], *CODE)) * 4
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        encoder.encode(text)
        best = min(best, time.perf_counter() - started)
    return best / len(text.encode())
