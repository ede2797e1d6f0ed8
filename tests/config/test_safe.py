"""Configuration is data: nothing in it runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llmgate
from llmgate.config import ConfigError, load_file

SOURCES = sorted(Path(llmgate.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {ran}']",
        "!!python/object/new:os.system ['touch {ran}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1]",
        "!something {{}}",
    ],
)
def test_yaml_that_names_python_objects_is_refused_and_does_nothing(tag: str, tmp_path: Path) -> None:
    ran, file = tmp_path / "ran", tmp_path / "llmgate.yaml"
    file.write_text(f"endpoints: [{{url: {tag.format(ran=ran)}}}]")
    with pytest.raises(ConfigError):
        load_file(file, {})
    assert not ran.exists()


def test_a_value_that_looks_like_a_template_stays_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "llmgate.yaml"
    file.write_text("endpoints: [{url: http://a, labels: {x: '{{ 7 * 7 }}', y: '%{7*7}'}}]")
    assert load_file(file, {}).endpoints[0].labels == {"x": "{{ 7 * 7 }}", "y": "%{7*7}"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_nothing_is_unpickled_or_evaluated(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{source}:{node.lineno}"
