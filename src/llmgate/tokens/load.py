"""Find and load the tokenizer that `models[].tokenizer` names. The libraries are imported here, on first use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmgate.tokens.counter import Encoder, TokenCounter
from llmgate.tokens.errors import TokenizerError

EMBEDDED = "embedded"


def load_tokenizer(path_or_name: str) -> TokenCounter:
    """A counter from a model directory, from a `tokenizer.json`, or from `embedded`: SmolLM2's, which llmgate ships.

    A directory without `tokenizer.json` is left to transformers' AutoTokenizer. Nothing is ever downloaded, and no code
    from the directory runs but its chat template, in a sandbox. A model without a template is counted as ChatML, which
    is how llama.cpp serves it. Takes 0.1 to 1 s, with transformers several. Raises TokenizerError.
    """
    path = find_tokenizer(path_or_name)
    directory, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
    if not file.exists():
        return _load_with_transformers(directory)
    encode = _load_tokenizer_json(file)
    config = _read_json(directory / "tokenizer_config.json")
    specials = {**_read_json(directory / "special_tokens_map.json"), **config}
    jinja = directory / "chat_template.jinja"
    source = _read(jinja) if jinja.exists() else config.get("chat_template")
    return _counter(directory, encode, source, specials)


def find_tokenizer(path_or_name: str) -> Path:
    """The directory or file that `load_tokenizer` would load. Raises TokenizerError if there is none."""
    if path_or_name == EMBEDDED:
        return Path(__file__).parent / "embedded"
    try:
        path = Path(path_or_name).expanduser()
        found = path.exists()
    except (OSError, RuntimeError):  # in a directory that may not be looked into; in the home of nobody known
        found = False
    if not found:
        raise TokenizerError(
            f"no tokenizer at {path_or_name!r}: give a model directory, a tokenizer.json, or the word {EMBEDDED!r}"
        )
    return path


def _load_tokenizer_json(file: Path) -> Encoder:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{file} is not a tokenizer: {error}") from None
    # some files carry the settings of their training run, which would cut or stretch the count
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: list[str], add_special_tokens: bool) -> int:
        return sum(map(len, tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)))

    return encode


def _load_with_transformers(directory: Path) -> TokenCounter:
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the many loaders behind it raise
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"no tokenizer can be loaded from {directory}: {reason}") from None

    def encode(texts: list[str], add_special_tokens: bool) -> int:
        return sum(map(len, tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]))

    return _counter(directory, encode, getattr(tokenizer, "chat_template", None), tokenizer.special_tokens_map)


def _counter(directory: Path, encode: Encoder, source: Any, specials: Mapping[str, Any]) -> TokenCounter:
    """`source` is one template, a list of named ones (`default`, `tool_use`), a mapping of them, or None."""
    from llmgate.tokens.chat_template import CHATML, ChatTemplate

    tokens = {name: _text(value) for name, value in specials.items() if name.endswith("_token") and _text(value)}
    named = _named_templates(directory, source)
    tools = named.get("tool_use")
    default = named.get("default") or CHATML
    return TokenCounter(encode, ChatTemplate(default, tokens), ChatTemplate(tools, tokens) if tools else None)


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
