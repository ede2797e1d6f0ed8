"""Where a rendered chat may be cut without changing its token ids.

Tokenizers find special tokens such as `<|im_start|>` before they do anything else, and encode what stands between them
by itself. So the ids of a chat are those of its pieces, each beginning with the token that begins a turn, and pieces
that were seen before need not be encoded again. Cuts are made before the token and not after it: what comes first in a
text may be treated in a way of its own (a leading blank is added to it, for one).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from llmgate.tokens.chat_template import ChatTemplate
from llmgate.tokens.encoders import Encoder, Ids, Special
from llmgate.tokens.errors import TokenizerError
from llmgate.tokens.probes import CODE, SCRIPTS

logger = logging.getLogger("llmgate.tokens")

_TURNS = [
    {"role": ("user", "assistant")[number % 2], "content": text}
    for number, text in enumerate((*SCRIPTS, *CODE, "  blanks around\n\n", "last <|im_start|> </s> [INST] one"))
]


class Cutter:
    """Cuts before each `token`. None: never."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    def __call__(self, text: bytes) -> list[bytes]:
        """Pieces of the text; their ids, one after the other, are the text's."""
        token = self._token
        if token is None:
            return [text]
        first, *rest = text.split(token)
        pieces = [token + piece for piece in rest]
        return [first, *pieces] if first or not pieces else pieces


def find_cuts(encoder: Encoder, template: ChatTemplate, name: str) -> Cutter:
    """Cuts before the special token that begins a turn in this template, if trying it out shows that they are sound;
    none otherwise, which the log tells with the `name` of the tokenizer."""
    try:
        text = template.render(_TURNS[:-1])
    except TokenizerError:  # one that wants other chats than these
        text = ""
    counts = {special.text: text.count(special.text) for special in encoder.specials}
    usable = [special.text for special in encoder.specials if _sound(special, encoder.specials)]
    token = max(usable, key=lambda each: counts[each], default=None)
    if token is None or counts[token] < 2:
        logger.info("%s: no special token begins the turns of its chat template: chats are encoded whole", name)
        return Cutter(None)
    cutter = Cutter(token)
    if not all(_same(encoder.encode, cutter, sample) for sample in (text, template.render(_TURNS), token * 3 + text)):
        logger.warning("%s: the ids of a chat are not those of its turns: chats are encoded whole", name)
        return Cutter(None)
    return cutter


def _sound(special: Special, others: Sequence[Special]) -> bool:
    """Nothing that the tokenizer looks for at the same time overlaps it: wherever its text is, there is the token."""
    if not special.cuts_before:
        return False
    text = special.text
    for other in (other.text for other in others if other.text != text):
        if text in other or other in text:
            return False
        ends = range(1, min(len(text), len(other)))
        if any(text[-n:] == other[:n] or other[-n:] == text[:n] for n in ends):
            return False
    return True


def _same(encode: Callable[[str], Ids], cut: Cutter, text: str) -> bool:
    pieces = encode("")
    for piece in cut(text.encode()):
        pieces += encode(piece.decode())
    return pieces == encode(text)
