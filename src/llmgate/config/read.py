"""From a YAML file to plain data, stricter than YAML is: what it would take in silence is most likely a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llmgate.config.errors import ConfigError
from llmgate.config.variables import hide, show

MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`, which puts another mapping's keys beneath those that stand here."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that the file holds, neither substituted nor validated. Raises ConfigError."""
    source = str(path)
    try:
        data = yaml.load(hide(path.read_text(encoding="utf-8")), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(source, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError(source, ["cannot be read: it is not UTF-8 text"]) from None
    except RecursionError:
        raise ConfigError(source, ["is nested too deeply: look for brackets that are not closed"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}{show(error.problem or str(error))}"]) from None
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise ConfigError(source, [f"is not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(data, dict):
        raise ConfigError(source, ["must be a mapping with at least the key `endpoints`"])
    return data


class _StrictLoader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node in self.recursive_objects:
            raise _error("this alias stands within what it is an alias of", node)
        try:
            return super().construct_object(node, deep=True)  # at once, or an alias of itself would go unnoticed
        except (AttributeError, LookupError, TypeError, ValueError):  # whatever PyYAML's conversions raise
            kind = node.tag.rpartition(":")[2]
            raise _error(f"this is not a valid {kind}: put it in quotes if it is text", node) from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        return show(value) if isinstance(value, str) else value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """YAML's last-one-wins for repeated keys hides mistakes: refuse them."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node)
            if isinstance(key, str) and key in seen:
                raise _error(f"the key {key!r} stands twice", key_node)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
