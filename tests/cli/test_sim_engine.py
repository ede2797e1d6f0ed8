"""`llmgate sim-engine` as it is typed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx2
import pytest
from click.testing import CliRunner, Result

from llmgate.cli.main import main
from llmgate.cli.sim_engine import one_engine

Started = tuple[subprocess.Popen[str], str]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sim-engine", "--port", "0", *arguments])


@pytest.fixture
def sim_engine() -> Iterator[Callable[..., Started]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> Started:
        """A process, and its URL."""
        command = [sys.executable, "-m", "llmgate", "sim-engine", "--port", "0", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stderr is not None
        return process, process.stderr.readline().split(" on ")[-1].strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_it_serves_the_profiles_model_until_it_is_told_to_stop(sim_engine: Callable[..., Started]) -> None:
    process, url = sim_engine("--profile", "4xh100:llama-3.1-70b", "--speed", "1000", "--max-model-len", "8192")
    with httpx2.Client(base_url=url, timeout=20) as client:
        [card] = client.get("/v1/models").json()["data"]
        assert (card["id"], card["owned_by"], card["max_model_len"]) == ("llama-3.1-70b", "vllm", 8192)
        body = {"model": "llama-3.1-70b", "prompt": "Hello", "max_tokens": 20, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 20
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_its_tokenizer_may_be_a_models_own(sim_engine: Callable[..., Started]) -> None:
    _, url = sim_engine("--tokenizer", "embedded", "--model", "mine", "--speed", "1000")
    with httpx2.Client(base_url=url, timeout=20) as client:
        counted = client.post("/tokenize", json={"prompt": "Hello there, friend"}).json()
        text = client.post("/detokenize", json={"tokens": counted["tokens"]}).json()["prompt"]
        assert (counted["count"], text) == (4, "Hello there, friend")
        assert client.get("/v1/models").json()["data"][0]["id"] == "mine"


def test_a_crash_that_is_asked_for_ends_the_process(sim_engine: Callable[..., Started]) -> None:
    process, url = sim_engine()
    with httpx2.Client(base_url=url, timeout=20) as client, pytest.raises(httpx2.TransportError):
        client.post("/sim/faults", json={"crash": True})
    process.communicate(timeout=20)
    assert process.returncode == 134


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--profile", "h10:llama-3.1-8b"), "did you mean h100"),
        (("--profile", "h100:lama-3.1-8b"), "did you mean llama-3.1-8b"),
        (("--profile", "l40s:llama-3.1-70b"), "GB"),
        (("--max-model-len", "90000000"), "is more than the KV cache of h100:llama-3.1-8b holds"),
        (("--output-tokens", "many"), "uniform:LOW:HIGH"),
        (("--fault", "failrate=1"), "did you mean fail_rate"),
        (("--tokenizer", "/no/such/place"), "no tokenizer at '/no/such/place'"),
        (("--kv-events-replay", "tcp://*:1"), "give that too"),
        (("--startup", "soon"), "give seconds, or 'profile'"),
        (("--startup", "nan"), "give seconds, or 'profile'"),
        (("--startup", "inf"), "give seconds, or 'profile'"),
        (("--speed", "nan"), "give a number"),
        (("--speed", "inf"), "give a number"),
    ],
)
def test_what_it_cannot_be_started_with_is_one_sentence_and_exit_1(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert says in result.stderr


def test_a_port_in_use_is_one_sentence_and_exit_1(sim_engine: Callable[..., Started]) -> None:
    _, url = sim_engine()
    result = CliRunner().invoke(main, ["sim-engine", "--port", url.rpartition(":")[2]])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is another engine there?" in result.stderr


def test_a_profiles_own_name_is_understood() -> None:
    assert one_engine("4xh100:llama-3.1-70b") == "4h100:llama-3.1-70b"
    assert one_engine("h100:llama-3.1-8b@max_running=4") == "h100:llama-3.1-8b@max_running=4"
