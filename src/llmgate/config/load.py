"""From a YAML file to a Config, or to every mistake in it with its path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmgate.config.errors import ConfigError
from llmgate.config.read import read_yaml
from llmgate.config.schema import Config
from llmgate.config.variables import substitute


def load_file(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read, substitute `${VAR}` and `${VAR:-default}` in strings, validate. Raises ConfigError."""
    return from_data(read_yaml(path), str(path), environment)


def from_data(data: Mapping[str, Any], source: str, environment: Mapping[str, str] | None = None) -> Config:
    """Validate plain data, as from YAML or the command line."""
    problems: list[str] = []
    substituted = substitute(dict(data), os.environ if environment is None else environment, problems)
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
        "too_short": "must have at least one entry",
    }.get(item["type"], item["msg"].removeprefix("Value error, "))
    return f"{path}: {message}" if path else message
