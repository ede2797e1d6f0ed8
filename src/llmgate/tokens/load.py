"""Find and load the tokenizer that `models[].tokenizer` names. The libraries are imported here, on first use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgate.tokens.counter import TokenCounter
from llmgate.tokens.errors import TokenizerError

if TYPE_CHECKING:
    from llmgate.tokens.encoders import Encoder

EMBEDDED = "embedded"
AS_TRANSFORMERS = "transformers:"
"""Before a directory: as transformers makes it of the class that its configuration names, whatever `tokenizer.json`
says. Engines that load models by transformers 5 do so, and for some classes that gives other ids."""


def load_tokenizer(path_or_name: str) -> TokenCounter:
    """A counter from a model directory, from a `tokenizer.json`, or from `embedded`: SmolLM2's, which llmgate ships.

    A directory without `tokenizer.json`, or one after `transformers:`, is left to transformers' AutoTokenizer. Nothing
    is ever downloaded, and no code from the directory runs but its chat template, in a sandbox. A model without a
    template is counted as ChatML, which is how llama.cpp serves it. Takes 1 to 3 s, with transformers several more.
    Raises TokenizerError.
    """
    from llmgate.tokens.encoders import open_directory, open_encoder

    path = find_tokenizer(path_or_name)
    directory, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
    if path_or_name.startswith(AS_TRANSFORMERS) or not file.exists():
        return _counter(directory, *open_directory(directory))
    encoder = open_encoder(_read(file), str(file))
    config = _read_json(directory / "tokenizer_config.json")
    specials = {**_read_json(directory / "special_tokens_map.json"), **config}
    jinja = directory / "chat_template.jinja"
    source = _read(jinja) if jinja.exists() else config.get("chat_template")
    return _counter(directory, encoder, source, specials)


def find_tokenizer(path_or_name: str) -> Path:
    """The directory or file that `load_tokenizer` would load. Raises TokenizerError if there is none."""
    name = path_or_name.removeprefix(AS_TRANSFORMERS)
    if name == EMBEDDED:
        return Path(__file__).parent / "embedded"
    try:
        path = Path(name).expanduser()
        found = path.exists()
    except (OSError, RuntimeError):  # in a directory that may not be looked into; in the home of nobody known
        found = False
    if not found:
        raise TokenizerError(
            f"no tokenizer at {name!r}: give a model directory, a tokenizer.json, or the word {EMBEDDED!r}"
        )
    return path


def _counter(directory: Path, encoder: Encoder, source: Any, specials: Mapping[str, Any]) -> TokenCounter:
    """`source` is one template, a list of named ones (`default`, `tool_use`), a mapping of them, or None."""
    from llmgate.tokens.chat_template import CHATML, ChatTemplate
    from llmgate.tokens.cuts import find_cuts

    tokens = {name: _text(value) for name, value in specials.items() if name.endswith("_token") and _text(value)}
    named = _named_templates(directory, source)
    template = ChatTemplate(named.get("default") or CHATML, tokens)
    cut = find_cuts(encoder, template, str(directory))
    if not named.get("tool_use"):
        return TokenCounter(encoder, template, cut=cut)
    tools = ChatTemplate(named["tool_use"], tokens)
    return TokenCounter(encoder, template, tools, cut, find_cuts(encoder, tools, str(directory)))


def _named_templates(directory: Path, source: Any) -> Mapping[str, str]:
    if source is None or isinstance(source, str):
        return {"default": source or ""}
    if isinstance(source, list) and all(isinstance(e, Mapping) and isinstance(e.get("name"), str) for e in source):
        source = {entry["name"]: entry.get("template") for entry in source}
    if isinstance(source, Mapping) and all(isinstance(text, str) for pair in source.items() for text in pair):
        return source
    raise TokenizerError(
        f"{directory}: its chat_template must be one template, or a list of them, each with `name` and `template`"
    )


def _text(token: Any) -> str | None:
    """A special token is written as a string or as an object with its `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {file}: {error}") from None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(_read(file))
    except ValueError as error:
        raise TokenizerError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} does not hold a JSON object")
    return content
