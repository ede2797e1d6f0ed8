"""`demo` as a user runs it, with the tiny model so that nothing is downloaded."""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx2
import pytest
from click.testing import CliRunner
from rich.console import Console

from llmgate.cli.main import main
from llmgate.demo.flow import DemoFailed, Event
from tests.support.fake_engine import FakeEngine
from tests.support.serving import config

demo = importlib.import_module("llmgate.cli.demo")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run with `--once` as if in a terminal, in an environment with a proxy."""
    no_directory = tmp_path_factory.mktemp("cache") / "file"
    no_directory.touch()
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    environment |= {"XDG_CACHE_HOME": str(no_directory), "FORCE_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "llmgate", "demo", "--once", "--port", "0", "--admin-port", "0"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.engine
def test_once_shows_who_served_each_request_and_exits_0(once: subprocess.CompletedProcess[str]) -> None:
    assert (once.returncode, once.stderr) == (0, "")
    assert "a tiny model with random weights answers instead" in once.stdout
    assert once.stdout.count("→ served by llama-") == 4


@pytest.mark.engine
def test_what_is_shown_while_engines_load_ends_with_that(once: subprocess.CompletedProcess[str]) -> None:
    loading, *answers = once.stdout.split("→ served by")
    assert "Loading" in loading
    assert "Loading" not in "".join(answers)


# What cannot work is said in one sentence, and at once


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line of standard error, said before a model is looked for."""

    def too_late(*_: object) -> None:
        raise AssertionError("it went as far as to look for a model")

    monkeypatch.setattr(demo, "find_model", too_late)
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 1, result.exception
    (line,) = result.stderr.splitlines()
    return line


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, "--policy", "nope", "--port", "0", "--admin-port", "0")
    assert line.startswith("llmgate: command line: router: policy: there is no policy 'nope'; ")


def test_one_port_for_both_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, "--port", "20100", "--admin-port", "20100")
    assert line == "llmgate: command line: admin.port: 20100 is the data port already"


@pytest.mark.parametrize("options", [("--port", "--admin-port"), ("--admin-port", "--port")])
def test_a_port_in_use_is_refused(monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(monkeypatch, options[0], str(port), options[1], "0")
    assert line == (
        f"llmgate: 127.0.0.1:{port} is in use by another program: choose another port (--port, --admin-port)"
    )


# While it runs


async def serve(url: str, *, once: bool) -> int:
    code: int = await demo._serve(Console(file=io.StringIO()), config(url), "m", once)
    return code


async def test_engines_that_do_not_get_ready_are_a_failure_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "READY_SECONDS", 0.1)
    assert await serve("http://127.0.0.1:1", once=True) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llmgate: The gateway saw no engine ready within 0.1 s: ")


@pytest.mark.parametrize(("once", "code"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_to_stop_it_while_it_asks_is_no_failure_but_a_once_is_not_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, once: bool, code: int
) -> None:
    async def stopped_while_asking(client: httpx2.AsyncClient, model: str) -> AsyncIterator[Event]:
        signal.raise_signal(number)
        try:
            while True:
                await client.get("/health")
        except httpx2.TransportError as error:
            raise DemoFailed("The gateway did not answer.") from error
        yield  # makes it a generator

    monkeypatch.setattr(demo, "demo_requests", stopped_while_asking)
    async with FakeEngine() as engine:
        assert await asyncio.wait_for(serve(engine.url, once=once), 20) == code
    assert capsys.readouterr().err == ""
