from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from llmgate.demo.engines import Engine, EngineFailed, start_engines
from tests.engines import TINY_ENGINE, tiny

pytestmark = pytest.mark.engine

StartEngine = Callable[..., Engine]


def test_engines_answer_as_soon_as_they_are_handed_over(tiny_engines: Sequence[Engine]) -> None:
    assert len({engine.url for engine in tiny_engines}) == len({engine.pid for engine in tiny_engines}) == 2
    for engine in tiny_engines:
        assert httpx2.get(f"{engine.url}/health").status_code == 200
        models = httpx2.get(f"{engine.url}/v1/models").json()["data"]
        assert [model["id"] for model in models] == [TINY_ENGINE.alias]


def test_an_engine_shows_its_metrics_and_its_slots(tiny_engines: Sequence[Engine]) -> None:
    url = tiny_engines[0].url
    assert "llamacpp:requests_processing" in httpx2.get(f"{url}/metrics").text
    assert len(httpx2.get(f"{url}/slots").json()) == TINY_ENGINE.slots


def test_a_repeated_prompt_comes_from_the_engines_cache(start_engine: StartEngine) -> None:
    url = start_engine().url
    body = {"messages": [{"role": "user", "content": "once upon a time " * 40}], "max_tokens": 1}
    first, second = (httpx2.post(f"{url}/v1/chat/completions", json=body).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] >= second["prompt_tokens"] - 1


def test_progress_is_told_of_each_engine() -> None:
    told: list[Engine] = []
    with start_engines(TINY_ENGINE, 2, on_ready=told.append) as engines:
        assert told == engines


def test_a_killed_engine_refuses_connections_and_the_other_goes_on(start_engine: StartEngine) -> None:
    victim, other = start_engine(), start_engine()
    victim.kill()
    assert not victim.alive
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{victim.url}/health")
    assert httpx2.get(f"{other.url}/health").status_code == 200


def test_an_engine_can_come_back_on_its_old_port(start_engine: StartEngine) -> None:
    first = start_engine()
    first.kill()
    again = start_engine(tiny(port=int(first.url.rpartition(":")[2])))
    assert again.url == first.url
    assert httpx2.get(f"{again.url}/health").status_code == 200


def test_the_block_stops_its_engines_and_stopping_twice_is_harmless() -> None:
    with start_engines(TINY_ENGINE, 1) as (engine,):
        assert engine.alive
    assert not engine.alive
    engine.stop()
    engine.kill()


def test_an_engine_that_cannot_load_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(TINY_ENGINE.model.read_bytes()[:100_000])
    with (
        pytest.raises(EngineFailed, match=r"did not start: .*not within the file bounds"),
        start_engines(replace(TINY_ENGINE, model=broken), 1),
    ):
        pytest.fail("a truncated model was served")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineFailed, match=r"nowhere\.gguf.*No such file"),
        start_engines(replace(TINY_ENGINE, model=tmp_path / "nowhere.gguf"), 2),
    ):
        pytest.fail("a missing model was served")


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineFailed, match=f"bind.*{port}"), start_engines(tiny(port=port), 1):
            pytest.fail("two servers share a port")


def test_an_engine_that_takes_too_long_is_stopped() -> None:
    engine = Engine(TINY_ENGINE)
    with engine, pytest.raises(EngineFailed, match="did not load within 0 s"):
        engine.wait_ready(timeout=0)
    assert not engine.alive


PARENT = """
import sys, time
from llmgate.demo.engines import start_engines
from tests.engines import TINY_ENGINE
with start_engines(TINY_ENGINE, 1) as (engine,):
    print(engine.pid, flush=True)
    time.sleep(600)
"""


def test_an_engine_ends_with_its_parent_even_if_that_is_killed() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        engine = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([engine], [], [], 10)
        os.close(engine)
        assert ended
