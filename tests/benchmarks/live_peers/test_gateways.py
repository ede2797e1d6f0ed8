from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.live_peers.__main__ import main, table
from benchmarks.live_peers.gateways import PORT, ROWS, Start
from benchmarks.live_peers.row import Row
from llmgate.config.load import load_file
from llmgate.config.schema import Config

ENGINES = ("http://127.0.0.1:9100", "http://127.0.0.1:9101")


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("llmgate")])
def test_llmgate_s_configurations_are_valid_and_name_the_policy(name: str, tmp_path: Path) -> None:
    config = _config(name, tmp_path, 10.0)
    assert config.router.policy == name.removeprefix("llmgate ")
    assert [endpoint.url for endpoint in config.endpoints] == list(ENGINES)
    assert config.server.port == PORT
    assert config.scrape.interval == 0.1


def test_the_weights_of_engines_follow_their_clock(tmp_path: Path) -> None:
    assert {each.weight for each in _config("llmgate expected-latency", tmp_path, 10.0).endpoints} == {10.0}


def test_nginx_is_told_all_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/sbin/nginx")
    command = ROWS["nginx least_conn"](Start(tmp_path, ENGINES, 1.0))
    text = Path(command[-1]).read_text()
    assert "least_conn; server 127.0.0.1:9100; server 127.0.0.1:9101;" in text


def test_an_unknown_row_is_refused_with_those_there_are() -> None:
    result = CliRunner().invoke(main, ["--rows", "haproxy", "--trace", __file__])
    assert result.exit_code == 2
    assert "'haproxy' is none of llmgate prefix-affinity," in result.output.replace("\n", " ")


def test_the_table_is_markdown() -> None:
    times = {"mean": 1.234, "p50": 1.0, "p90": 2.0, "p99": 3.0}
    lines = table([Row("nginx", 10, 1, times, times, 0.25, 0, 1.5, 0.4, 0.001)]).splitlines()
    assert lines[2] == "| nginx | 1.23 | 1.00 | 2.00 | 3.00 | 1.2 | 1.0 | 3.0 | 0.250 | 1.50 | 0.40 | 1 |"
    assert len({line.count("|") for line in lines}) == 1


def _config(name: str, home: Path, speed: float) -> Config:
    command = ROWS[name](Start(home, ENGINES, speed))
    return load_file(Path(command[command.index("--config") + 1]))
