"""`${VAR}` and `${VAR:-default}` in the values of a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

# YAML takes some characters of an unquoted variable for its own, in `{token: ${TOKEN:-}}` the braces. While it reads,
# others stand for them, out of the last private plane of Unicode: as many, so that lines and columns of errors hold.
_HIDDEN = {ord(character): 0x10FF00 + ord(character) for character in "${}[],:#? \t"}
_SHOWN = {hidden: character for character, hidden in _HIDDEN.items()}


def hide(text: str) -> str:
    """YAML in which every variable is ordinary text, quoted or not. Line by line: one left open spoils no more."""
    lines = text.splitlines(keepends=True)
    return "".join(VARIABLE.sub(lambda match: match[0].translate(_HIDDEN), line) for line in lines)


def show(text: str) -> str:
    """The text as it was before `hide`."""
    return text.translate(_SHOWN)


def substitute(value: Any, environment: Mapping[str, str], problems: list[str], path: str = "") -> Any:
    """`value` with the variables in all its strings replaced; those that have no value are added to `problems`."""
    if isinstance(value, dict):
        return {k: substitute(v, environment, problems, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [substitute(item, environment, problems, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = environment.get(match["name"])
        if not found and match["default"] is not None:
            return match["default"]
        if found is None:
            problems.append(f"{path}: the environment variable {match['name']} is not set and has no default")
            return ""
        return found

    return VARIABLE.sub(fill, value)
