"""Three libraries behind one function: text in, token ids out. The fastest that agrees with the reference is used."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llmgate.tokens.errors import TokenizerError
from llmgate.tokens.probes import PROBES, between

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger("llmgate.tokens")

Ids: TypeAlias = "array[int]"
"""Token ids as unsigned 32-bit numbers (`array("I")`)."""

MANY = 32
"""Special tokens that are tried out; some vocabularies reserve thousands."""


@dataclass(frozen=True, slots=True)
class Special:
    """A token that is found in the text before anything else is done to it, and never merges with what is around it."""

    text: str
    cuts_before: bool
    """It is one wherever its text stands, and swallows no blanks on its left: what precedes it has the ids that it has
    by itself."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """`encode` adds nothing; a plain prompt's ids are `before`, its own, `after` (BOS and the like). Safe to use from
    several threads, which it lets run meanwhile."""

    library: str
    encode: Callable[[str], Ids]
    before: Ids
    after: Ids
    specials: tuple[Special, ...] = ()


def open_encoder(content: str, name: str) -> Encoder:
    """Of the text of a `tokenizer.json`: fastokens where it gives the ids that tokenizers gives, else tokenizers.
    `name` is for the log. Raises TokenizerError."""
    reference = _with_tokenizers(content, name)
    try:
        fast = _with_fastokens(content, reference)
    except Exception as error:  # what it does not know it refuses in its own words
        reason = str(error).strip().partition("\n")[0][:200]
        logger.info("%s: fastokens does not take it (%s): tokenizers is used", name, reason)
        return reference
    if not agree(fast.encode, reference.encode, reference.specials):
        logger.warning("%s: fastokens gives other ids than tokenizers: tokenizers is used", name)
        return reference
    return fast


def open_directory(directory: Path) -> tuple[Encoder, object, dict[str, str]]:
    """Of a model directory as transformers loads it: the encoder, its chat template and its special tokens. What it
    makes is looked into for a tokenizer that the other libraries can run. Raises TokenizerError."""
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the many loaders behind it raise
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"no tokenizer can be loaded from {directory}: {reason}") from None

    def encode(text: str, add_special_tokens: bool = False) -> Ids:
        return array("I", tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    rest: tuple[object, dict[str, str]] = getattr(tokenizer, "chat_template", None), dict(tokenizer.special_tokens_map)
    before, after = _added(encode, lambda text: encode(text, True), str(directory))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        encoder = replace(open_encoder(backend.to_str(), str(directory)), before=before, after=after)
        if agree(encoder.encode, encode, encoder.specials):
            return encoder, *rest
    return Encoder("transformers", encode, before, after), *rest


def agree(one: Callable[[str], Ids], other: Callable[[str], Ids], specials: Iterable[Special]) -> bool:
    """Whether both give the same ids for texts of many scripts, code, emoji, blanks and special tokens."""
    texts = (*PROBES, *between([special.text for special in specials][:MANY]))
    return all(one(text) == other(text) for text in texts)


def _with_tokenizers(content: str, name: str) -> Encoder:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{name} is not a tokenizer: {error}") from None
    # some files carry the settings of their training run, which would cut or stretch the ids
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str, add_special_tokens: bool = False) -> Ids:
        return array("I", tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    before, after = _added(encode, lambda text: encode(text, True), name)
    return Encoder("tokenizers", encode, before, after, _specials(tokenizer))


def _with_fastokens(content: str, reference: Encoder) -> Encoder:
    from fastokens import Tokenizer

    tokenizer = Tokenizer.from_json_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> Ids:
        return array("I", tokenizer.encode(text).ids)

    return Encoder("fastokens", encode, reference.before, reference.after, reference.specials)


def _specials(tokenizer: Tokenizer) -> tuple[Special, ...]:
    # those marked `normalized` are found later, in the text between these and after it was changed
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(
        Special(token.content, not token.lstrip and not token.single_word) for token in added if not token.normalized
    )


def _added(plain: Callable[[str], Ids], whole: Callable[[str], Ids], name: str) -> tuple[Ids, Ids]:
    """What a tokenizer puts before and after any text, found out by trying."""
    found: set[tuple[bytes, bytes]] = set()
    for probe in ("a", "two words", "\u00e9\n"):
        own, all_of_it = plain(probe), whole(probe)
        extra = len(all_of_it) - len(own)
        at = next((at for at in range(extra + 1) if all_of_it[at : at + len(own)] == own), None)
        if at is None:
            raise TokenizerError(f"{name}: what it adds to a prompt depends on the prompt")
        found.add((all_of_it[:at].tobytes(), all_of_it[at + len(own) :].tobytes()))
    if len(found) > 1:
        raise TokenizerError(f"{name}: what it adds to a prompt depends on the prompt")
    before, after = found.pop()
    return array("I", before), array("I", after)
