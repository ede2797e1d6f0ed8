"""What a user types, and what comes back: standard output, standard error, exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from llmgate.cli.main import COMMANDS, main
from llmgate.demo.engines import Engine
from tests.engines import tiny

GOOD = "endpoints:\n  - {url: http://node-a:8000, models: [big]}\n  - {url: http://node-b:8000}\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"llmgate {command}" in result.output


def test_check_says_that_a_file_is_good(good: str) -> None:
    result = run("check", good)
    assert (result.exit_code, result.output) == (0, f"{good}: good (2 endpoints, policy expected-latency)\n")


def test_check_prints_every_mistake_and_exits_1(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("endpoints: [{url: ftp://x}]\nrouter: {policy: nope}\n")
    result = run("check", str(path))
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_check_looks_whether_tokenizers_and_certificates_are_there(tmp_path: Path) -> None:
    path, there = tmp_path / "config.yaml", tmp_path / "there"
    there.touch()
    path.write_text(
        "endpoints:\n"
        f"  - {{url: https://a, tls_ca: {there}}}\n"
        f"  - {{url: https://b, tls_ca: {tmp_path}/no.pem}}\n"
        f"  - {{url: https://c, tls_ca: {tmp_path}}}\n"
        "models:\n"
        f"  - {{name: a, tokenizer: {there}}}\n"
        "  - {name: b, tokenizer: embedded}\n"
        f"  - {{name: c, tokenizer: {tmp_path}/no}}\n"
        "  - {name: d, tokenizer: ~nobody-of-that-name/x}\n"
    )
    result = run("check", str(path))
    says = "give a model directory, a tokenizer.json, or the word 'embedded'"
    assert result.stderr.splitlines() == [
        f"{path}: endpoints[1].tls_ca: {tmp_path}/no.pem cannot be read: No such file or directory",
        f"{path}: endpoints[2].tls_ca: {tmp_path} cannot be read: Is a directory",
        f"{path}: models[2].tokenizer: no tokenizer at '{tmp_path}/no': {says}",
        f"{path}: models[3].tokenizer: no tokenizer at '~nobody-of-that-name/x': {says}",
    ]
    assert result.exit_code == 1


def test_check_looks_whether_the_access_log_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for to, code in ((tmp_path / "access.log", 0), ("stdout", 0), (tmp_path / "no" / "access.log", 1)):
        path.write_text(f"{GOOD}access_log: {{to: {to}}}\n")
        result = run("check", str(path))
        assert result.exit_code == code
    assert "access_log.to: the directory of" in result.stderr
    assert not (tmp_path / "access.log").exists()


def test_routes_of_a_file_as_table_and_as_json(good: str) -> None:
    assert "node-a:8000" in run("routes", good).output
    rows = json.loads(run("routes", good, "--json", "-").output)
    assert [(row["model"], row["endpoint"]) for row in rows] == [("big", "node-a:8000"), ("(learnt)", "node-b:8000")]


def test_routes_of_a_file_shows_the_aliases_of_models_that_are_learnt(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    models = "models: [{name: big, aliases: [gpt-4o]}, {name: learnt, aliases: [gpt-4o-mini]}]\n"
    path.write_text(GOOD + models)
    rows = json.loads(run("routes", str(path), "--json", "-").output)
    assert [(row["model"], row["aliases"], row["endpoint"]) for row in rows] == [
        ("big", ["gpt-4o"], "node-a:8000"),
        ("(learnt)", [], "node-b:8000"),
        ("learnt", ["gpt-4o-mini"], "(learnt)"),
    ]
    path.write_text("endpoints: [{url: http://a, models: [big]}]\n" + models)
    assert json.loads(run("routes", str(path), "--json", "-").output)[-1]["endpoint"] == "(none)"


def test_routes_shows_names_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "config.yaml"
    path.write_text(
        "endpoints: [{url: 'https://[fd00::12]:8443', name: 'a[/b]'}, {url: http://b, models: ['[red]m:smile:']}]\n"
    )
    output = run("routes", str(path)).output
    for name in ("https://[fd00::12]:8443", "a[/b]", "[red]m:smile:"):
        assert f" {name} " in output


def test_routes_of_nothing_that_answers_is_one_sentence_and_exit_1() -> None:
    result = run("routes", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "give the admin URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "there is no engine"),
        (["http://a", "--workers", "2"], "--workers above 1 is not possible yet"),
        (["http://a", "--port", "70000"], "--port"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage_of_serve_exits_2(arguments: list[str], says: str) -> None:
    result = run("serve", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_configuration_that_cannot_be_used_exits_1(tmp_path: Path) -> None:
    result = run("serve", "--config", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr
    result = run("serve", "http://a", "--policy", "prefix-afinity")
    assert result.exit_code == 1
    assert "did you mean prefix-affinity or session-affinity? there are: round-robin, " in result.stderr


def test_a_port_in_use_is_one_sentence_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", "http://127.0.0.1:1", "--host", "127.0.0.1", "--port", port, "--admin-port", "0")
    assert result.exit_code == 1
    assert f"127.0.0.1:{port} is in use by another program: choose another port" in result.stderr


def test_a_tokenizer_that_cannot_be_loaded_exits_1(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD + "server: {port: 0}\nadmin: {port: 0}\nmodels: [{name: big, tokenizer: /no/such/place}]\n")
    result = run("serve", "--config", str(path))
    assert result.exit_code == 1
    assert "no tokenizer at '/no/such/place'" in result.stderr


# The process itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        """A gateway process and the URL of its data port."""
        ports = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
        process = subprocess.Popen(
            [sys.executable, "-m", "llmgate", "serve", *arguments, *ports],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        processes.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        return process, line.split(" on ")[1].split(" ")[0]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until_ready(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=5, transport=httpx2.HTTPTransport(retries=3)) as client:
        for _ in range(2000):
            if client.get("/ready").status_code == 200:
                return
    raise AssertionError("never ready")


def test_sigterm_lets_an_open_stream_finish_and_exits_0(
    serve: Callable[..., tuple[subprocess.Popen[str], str]], tiny_engines: list[Engine]
) -> None:
    process, url = serve(*(engine.url for engine in tiny_engines))
    until_ready(url)
    body = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 400, "stream": True, "ignore_eos": True}
    with (
        httpx2.Client(base_url=url, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        pieces = response.iter_raw()
        text = next(pieces)
        process.send_signal(signal.SIGTERM)
        text += b"".join(pieces)
    assert text.endswith(b"data: [DONE]\n\n")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped; 0 charges left open" in errors


def test_it_starts_with_all_engines_down_says_so_and_recovers(
    serve: Callable[..., tuple[subprocess.Popen[str], str]], start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine()
    address = engine.url
    engine.kill()
    process, url = serve(address)
    with httpx2.Client(base_url=url, timeout=5) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        answer = client.post("/v1/chat/completions", json={"model": "any", "messages": []})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "no_ready_endpoint"
        start_engine(tiny(port=int(address.rsplit(":", 1)[1])))
        until_ready(url)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_hang_up_reloads_the_file_with_the_options_on_top_and_moves_the_access_log(
    serve: Callable[..., tuple[subprocess.Popen[str], str]], tiny_engines: list[Engine], tmp_path: Path
) -> None:
    path, log = tmp_path / "config.yaml", tmp_path / "access.log"
    one, two = (engine.url for engine in tiny_engines)
    common = f"reload: {{watch: 0}}\naccess_log: {{to: {log}}}\n"
    path.write_text(f"{common}endpoints: [{{url: '{one}', name: one}}]\n")
    process, url = serve("--config", str(path), "--policy", "least-connections")
    assert process.stderr is not None
    until_ready(url)
    body = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 4}
    with httpx2.Client(base_url=url, timeout=30) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        path.write_text(f"{common}endpoints: [{{url: '{two}', name: two}}]\n")
        log.rename(tmp_path / "access.log.1")
        process.send_signal(signal.SIGHUP)
        while "reloaded: added two; removed one" not in (line := process.stderr.readline()):
            assert line, "it ended"
        while "two is up" not in (line := process.stderr.readline()):
            assert line, "it ended"
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.headers["x-llmgate-endpoint"], answer.headers["x-llmgate-policy"]) == ("two", "least-connections")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert [len(file.read_text().splitlines()) for file in (log, tmp_path / "access.log.1")] == [1, 1]
