from __future__ import annotations

import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from llmgate.demo.engine import EngineOptions, parse
from tests.engines import TINY_ENGINE


def command(*more: str) -> list[str]:
    model = ["--model", str(TINY_ENGINE.model), "--alias", TINY_ENGINE.alias]
    return [sys.executable, "-m", "llmgate.demo.engine", *model, *more]


def test_options_left_out_take_their_defaults() -> None:
    assert parse(["--model", "m.gguf", "--alias", "m"]) == (EngineOptions(Path("m.gguf"), "m"), False)


def test_every_option_is_read() -> None:
    numbers = {"--port": "81", "--ctx": "512", "--slots": "2", "--threads": "3"}
    argv = ["--model", "m.gguf", "--alias", "m", "--with-parent"]
    options = EngineOptions(Path("m.gguf"), "m", port=81, ctx=512, slots=2, threads=3)
    assert parse([*argv, *chain.from_iterable(numbers.items())]) == (options, True)


@pytest.mark.engine
def test_it_ends_at_once_when_its_standard_input_does() -> None:
    with subprocess.Popen(command("--with-parent"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        assert engine.stdin is not None
        assert engine.stdout.readline().startswith(b"http://127.0.0.1:")
        engine.stdin.close()
        assert engine.wait(10) == -signal.SIGTERM


@pytest.mark.engine
def test_without_a_parent_to_follow_it_serves_until_a_signal() -> None:
    with subprocess.Popen(command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline().startswith(b"http://127.0.0.1:")
        assert engine.poll() is None
        engine.terminate()
        assert engine.wait(10) == -signal.SIGTERM
