"""A text that no place where operators look may ever show: logs, metrics, errors, the configuration, crashes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest
from llmgate.telemetry.crash import WithoutTexts, without_texts
from llmgate.testing.fake_upstream import RESET, STREAM_HEAD, Script, answer, chunk
from tests.support.fake_engine import JSON, FakeEngine, completion, in_turn
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, Served, config_data, serving

SECRET = "canary-4f1d"

PROMPT: dict[str, Any] = HELLO | {"messages": [{"role": "user", "content": SECRET}], "user": SECRET}

ANSWERS: dict[str, Script] = {
    "whole": [completion(SECRET)],
    "streamed": [
        STREAM_HEAD,
        chunk(f'data: {{"choices": [{{"delta": {{"content": "{SECRET}"}}}}]}}\n\n'.encode()),
        RESET,
    ],
    "nonsense": [f"HTTP/1.1 {SECRET}\r\n\r\n".encode()],
    "an error": [answer(json.dumps({"error": {"message": SECRET}}).encode(), 500, [JSON])],
    "a bad chunk": [STREAM_HEAD, f"{SECRET}\r\n".encode()],
    "a bad length": [f"HTTP/1.1 200 OK\r\ncontent-length: {SECRET}\r\n\r\n".encode()],
}


class Raising(Router):
    """A router of a stranger's that fails with what it was given."""

    def score(self, request: InferenceRequest, candidates: Candidates) -> list[float]:
        raise ValueError(f"what am I to do with {SECRET}?")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that is logged, as the command logs it, but for what the test's own client says."""
    caplog.set_level(logging.DEBUG)
    for client in ("httpx2", "httpcore2"):
        caplog.set_level(logging.WARNING, client)
    caplog.handler.addFilter(WithoutTexts())
    return caplog


def secrets(engine: FakeEngine, access_log: Path) -> dict[str, Any]:
    """Configuration with the secret wherever one may be."""
    endpoint = {"url": engine.url, "api_key": SECRET}
    log = {"to": str(access_log), "hash_key": SECRET, "prefix_blocks": 4}
    return config_data(endpoint, admin={"token": SECRET}, access_log=log, retries={"max_attempts": 1})


async def pages(served: Served) -> list[str]:
    """What operators see."""
    given = {"authorization": f"Bearer {SECRET}"}
    shown = [await served.client.get(path) for path in ("/metrics", "/v1/models", "/ready")]
    paths = ("/api/config", "/api/endpoints", "/api/decisions", "/metrics", "/openapi.json")
    shown += [await served.admin.get(path, headers=given) for path in paths]
    assert all(page.status_code in (200, 503) for page in shown)
    return [page.text for page in shown]


@pytest.mark.parametrize("kind", ANSWERS)
async def test_keys_prompts_and_answers_are_nowhere_to_be_seen(
    kind: str, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    async with FakeEngine(in_turn(ANSWERS[kind])) as engine:
        data = secrets(engine, file)
        async with serving(*data.pop("endpoints"), **data) as served:
            await served.chat(PROMPT, authorization=f"Bearer {SECRET}", x_api_key=SECRET, cookie=f"key={SECRET}")
            await served.client.post(f"{CHAT}?key={SECRET}", json=PROMPT)
            await served.chat(PROMPT | {"stream": True}, x_session_id=SECRET)
            await served.client.get(f"/{SECRET}")
            await served.admin.get("/api/config", headers={"authorization": f"Bearer wrong-{SECRET}"})
            seen = await pages(served)
        assert engine.asked
        assert (b"authorization", f"Bearer {SECRET}".encode()) in engine.asked[0].headers  # it is the real one
    for text in (log.text, file.read_text(), *seen):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b'{"model": "m", "messages": "' + SECRET.encode()), 400),
        (post(b'{"model": "m", "n": ' + SECRET.encode() + b"}"), 400),
        (post(HELLO, f"/v1/{SECRET}/../x"), 404),
        (post(HELLO, f"/{SECRET}"), 404),
        (post(PROMPT | {"model": "other"}), 404),
        (post(PROMPT, content_encoding=SECRET), 415),
        (post(PROMPT, f"{CHAT}?{SECRET}").replace(b"POST", b"DELETE", 1), 405),
        (f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {SECRET}\r\n\r\n".encode(), 400),
        (f"GET / HTTP/1.1\r\nhost: x\r\n{SECRET}\r\n\r\n".encode(), 400),
    ],
)
async def test_an_error_does_not_repeat_what_was_sent(sent: bytes, status: int, log: pytest.LogCaptureFixture) -> None:
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(sent)
        head = await client.head()
        assert head.status == status
        assert SECRET.encode() not in await client.body(head)
        assert all(SECRET not in value for value in head.headers.values())
    assert SECRET not in log.text


async def test_a_crash_tells_where_and_not_what(log: pytest.LogCaptureFixture) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        served.gateway.scheduler.router = Raising()
        answered = await served.chat(PROMPT)
        assert answered.status_code == 500
        assert SECRET not in answered.text
    assert SECRET not in log.text
    assert "ValueError" in log.text
    assert f"{__file__}:" in log.text


def test_a_chain_of_errors_is_told_without_its_texts() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(SECRET) from error
    except ValueError as error:
        told = without_texts(error)
    assert SECRET not in told
    assert told.index("ValueError") < told.index("after KeyError")


def test_what_a_library_logs_with_an_exception_loses_its_text(log: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("library").exception("it failed")
    assert SECRET not in log.text
    assert "ValueError" in log.text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["admin"].update(token=f"{SECRET} {SECRET}"),
        lambda data: data["endpoints"][0].update(api_key=[SECRET]),
        lambda data: data["endpoints"][0].update(url=f"http://user:{SECRET}@a:8000"),
        lambda data: data["access_log"].update(hash_key={"x": SECRET}),
    ],
)
def test_a_mistake_in_the_configuration_does_not_tell_the_secret(change: Any, tmp_path: Path) -> None:
    data: dict[str, Any] = {"endpoints": [{"url": "http://a"}], "admin": {}, "access_log": {}}
    change(data)
    file = tmp_path / "llmgate.yaml"
    file.write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "llmgate", "serve", "--config", str(file), "--log-level", "debug"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
