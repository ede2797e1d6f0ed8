"""What becomes of a file before it is validated: YAML, and the variables in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgate.config import Config, ConfigError, load_file, read_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_file(path, {})
    return caught.value.problems


def loaded(path: Path, text: str, **environment: str) -> Config:
    path.write_text(text)
    return load_file(path, environment)


def labels(path: Path, value: str, **environment: str) -> dict[str, str]:
    return loaded(path, f"endpoints:\n  - url: http://a\n    labels: {value}\n", **environment).endpoints[0].labels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("endpoints: [", "line 1, column 13"),
        ("- a", "must be a mapping"),
        ("", "must be a mapping"),
        ("endpoints: []\nendpoints: []", "line 2, column 1: the key 'endpoints' stands twice"),
        ("endpoints: [{url: 'http://a', url: 'http://b'}]", "the key 'url' stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "line 1"),
        ("a: \x07", "is not YAML"),
        ("a:\n  b: 2024-13-01", "line 2, column 6: this is not a valid timestamp: put it in quotes if it is text"),
        ('a: !!int "abc"', "line 1, column 4: this is not a valid int"),
        ("a: !!bool maybe", "line 1, column 4: this is not a valid bool"),
        ("a: !!map text", "line 1, column 4: this is not a valid map"),
        ("a: " + "9" * 5000, "line 1, column 4: this is not a valid int"),
        ("endpoints: &a [*a]", "line 1, column 12: this alias stands within what it is an alias of"),
        ("endpoints: &a {b: [*a]}", "line 1, column 12: this alias stands within what it is an alias of"),
        ("a: " + "[" * 3000, "is nested too deeply"),
        ("${A}: 1\n${A}: 2", "line 2, column 1: the key '${A}' stands twice"),
    ],
)
def test_a_file_that_is_no_configuration_says_where_in_one_sentence(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    (found,) = problems(file)
    assert says in found
    assert "\n" not in found


def test_a_secret_that_yaml_takes_for_something_else_is_not_shown(file: Path) -> None:
    file.write_text("admin: {token: 2024-13-01}")
    assert "2024-13-01" not in str(problems(file))


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    assert problems(tmp_path / "missing.yaml") == ["cannot be read: No such file or directory"]
    assert problems(tmp_path) == ["cannot be read: Is a directory"]
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\xff")
    assert problems(tmp_path / "latin.yaml") == ["cannot be read: it is not UTF-8 text"]


def test_a_mapping_may_be_merged_into_another(file: Path) -> None:
    config = loaded(file, "endpoints: [&a {url: http://a, gpu: H100, weight: 2}, {<<: *a, url: http://b, weight: 1}]")
    assert [(each.url, each.gpu, each.weight) for each in config.endpoints] == [
        ("http://a", "H100", 2),
        ("http://b", "H100", 1),
    ]


# Variables


def test_a_variable_needs_no_quotes_anywhere(file: Path) -> None:
    config = loaded(
        file,
        "server: {host: ${HOST:-127.0.0.1}, port: ${PORT}}\n"
        "admin: {host: 127.0.0.1, port: 8081, token: ${LLMGATE_ADMIN_TOKEN:-}}\n"
        "endpoints:\n"
        "  - url: ${URL}  # where it is\n"
        "    labels: {zone: '${ZONE}', tier: \"${ZONE}-x\"}\n"
        "  - {url: http://${NODE}:8000, models: [${MODEL}, ${OTHER:-b}]}\n",
        PORT="9000",
        URL="http://a:1",
        ZONE="z",
        NODE="node-a",
        MODEL="a",
    )
    assert (config.server.host, config.server.port) == ("127.0.0.1", 9000)
    assert config.admin.token.get_secret_value() == ""
    assert [endpoint.url for endpoint in config.endpoints] == ["http://a:1", "http://node-a:8000"]
    assert config.endpoints[0].labels == {"zone": "z", "tier": "z-x"}
    assert [model.name for model in config.endpoints[1].models or []] == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"x: ${V}, y"', "x: z, y"),
        ('"see [${V}]"', "see [z]"),
        ("'it''s - ${V}'", "it's - z"),
        ("${V} - ${V}", "z - z"),
        ('"${V}\\t${NO:-a\\tb}"', "z\ta\tb"),
        ("'${NO:-it''s}'", "it's"),
        ("${NO:-a: b, [c] #d}  # comment", "a: b, [c] #d"),
        ("|-\n        [${V}]\n        x: ${V}", "[z]\nx: z"),
        ("${V:-", "${V:-"),
    ],
)
def test_a_value_is_changed_by_its_variables_alone(file: Path, written: str, read: str) -> None:
    assert labels(file, f"\n      a: {written}", V="z") == {"a": read}


def test_a_variable_is_not_looked_for_in_what_another_one_holds(file: Path) -> None:
    assert labels(file, "{a: ${V}}", V="${W}, {x: y}", W="no") == {"a": "${W}, {x: y}"}


def test_before_validation_variables_stand_as_they_were_written(file: Path) -> None:
    file.write_text("${A}: {b: ${C:-d e}}")
    assert read_yaml(file) == {"${A}": {"b": "${C:-d e}"}}
