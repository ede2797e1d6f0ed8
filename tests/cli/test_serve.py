"""What `serve` makes of its file and its options together."""

from __future__ import annotations

import resource
from pathlib import Path

import click
import pytest

from llmgate.cli.serve import load, raise_file_limit
from llmgate.config import Config, ConfigError

FILE = """
server: {host: 127.0.0.1, port: 9000, body_limit: 2048}
admin: {host: 0.0.0.0, token: canary}
endpoints: [{url: "http://node-a:8000", name: a}]
router: {policy: prefix-affinity, options: {patience: 3}}
"""


def loaded(path: Path, text: str, *urls: str, port: int | None = None, policy: str | None = None) -> Config:
    path = path / "config.yaml"
    path.write_text(text)
    return load(urls, path, port=port, policy=policy)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("node-b:8000", "http://node-b:8000"),
        ("https://node-b", "https://node-b"),
        ("unix:/run/vllm.sock", "unix:/run/vllm.sock"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_is_enough_with_or_without_its_scheme(given: str, url: str) -> None:
    assert [endpoint.url for endpoint in load((given,), None).endpoints] == [url]


def test_urls_come_after_the_files_endpoints(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILE, "node-b:8000", "node-c:8000")
    assert [endpoint.name for endpoint in config.endpoints] == ["a", "node-b:8000", "node-c:8000"]


def test_options_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILE, port=9001)
    assert (config.server.host, config.server.port, config.server.body_limit) == ("127.0.0.1", 9001, 2048)
    assert config.admin.token.get_secret_value() == "canary"


def test_another_policy_drops_the_options_of_the_files_and_the_same_keeps_them(tmp_path: Path) -> None:
    assert loaded(tmp_path, FILE, policy="round-robin").router.options == {}
    assert loaded(tmp_path, FILE, policy="prefix-affinity").router.options == {"patience": 3}


def test_without_any_engine_it_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError, match="there is no engine"):
        load((), None)


@pytest.mark.parametrize("endpoints", ["5", "node-b:8000", "{url: http://node-b}"])
def test_mistakes_in_the_file_are_found_with_urls_on_top_as_well(tmp_path: Path, endpoints: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"endpoints: {endpoints}\n", "http://node-a")
    assert caught.value.problems == ["endpoints: Input should be a valid list"]


@pytest.mark.parametrize("section", ["server: 5", "server: [1]"])
def test_mistakes_in_a_section_are_found_with_options_on_top_as_well(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match="server: "):
        loaded(tmp_path, f"endpoints: [{{url: http://a}}]\n{section}\n", port=9001)


def test_the_same_engine_twice_is_said_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="2 of them are named 'node-a:8000'"):
        load(("node-a:8000", "node-a:8000"), None)


def test_it_may_open_as_many_files_as_the_process_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
