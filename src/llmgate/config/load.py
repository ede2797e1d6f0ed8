"""From a YAML file to a Config, or to every mistake in it with its path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmgate.config.schema import Config

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

BARE_VARIABLE = re.compile(
    r"([:,\[-][ \t]+|\[)(\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^}'\n]*)?\})(?=[ \t]*(?:[,}\]\n]|$|[ \t]#))"
)
"""A variable that is a whole value. Within a flow mapping YAML would choke on its braces, so it is put in quotes."""


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` says each thing that is wrong, with its path."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


def load_file(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read, substitute `${VAR}` and `${VAR:-default}` in strings, validate. Raises ConfigError."""
    return from_data(read_yaml(path), str(path), environment)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that the file holds, not yet validated. Raises ConfigError."""
    source = str(path)
    try:
        text = BARE_VARIABLE.sub(r"\1'\2'", path.read_text(encoding="utf-8"))
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(source, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError(source, ["cannot be read: it is not UTF-8 text"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}{error.problem or error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, [f"is not YAML: {error}"]) from None
    if not isinstance(data, dict):
        raise ConfigError(source, ["must be a mapping with at least the key `endpoints`"])
    return data


def from_data(data: Mapping[str, Any], source: str, environment: Mapping[str, str] | None = None) -> Config:
    """Validate plain data, as from YAML or the command line."""
    problems: list[str] = []
    substituted = _substitute(dict(data), "", os.environ if environment is None else environment, problems)
    if problems:
        raise ConfigError(source, problems)
    try:
        return Config.model_validate(substituted)
    except ValidationError as error:
        raise ConfigError(source, [_describe(item) for item in error.errors(include_url=False)]) from None


def _describe(item: Any) -> str:
    path = ""
    for part in item["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    message = {
        "extra_forbidden": "there is no such key",
        "missing": "is required",
    }.get(item["type"], item["msg"].removeprefix("Value error, "))
    return f"{path}: {message}" if path else message


def _substitute(value: Any, path: str, environment: Mapping[str, str], problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {k: _substitute(v, f"{path}.{k}" if path else str(k), environment, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(item, f"{path}[{index}]", environment, problems) for index, item in enumerate(value)]
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


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's last-one-wins for repeated keys hides mistakes: refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)
