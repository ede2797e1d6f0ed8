"""The access log of a whole gateway: one line a request, however it ended, and never any content."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, answer, chunk
from tests.support.fake_engine import DONE, FakeEngine, completion, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, serving

Line = dict[str, Any]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def text(log: Path) -> str:
    return log.read_text()


def lines(log: Path) -> list[Line]:
    return [json.loads(line) for line in text(log).splitlines()]


def on(log: Path, **more: Any) -> dict[str, Any]:
    return {"to": str(log), **more}


async def test_a_whole_answer_is_a_line_with_everything_that_is_known(log: Path) -> None:
    before = time.time()
    async with FakeEngine([completion()]) as engine, serving(engine, access_log=on(log)) as served:
        answered = await served.chat(x_request_id="mine", x_session_id="somebody")
    (line,) = lines(log)
    assert before <= line["ts"] <= time.time()
    assert 0 <= line["queue_s"] <= line["ttft_s"] <= line["duration_s"]
    for key in ("ts", "queue_s", "ttft_s", "duration_s"):
        del line[key]
    session = line.pop("session")
    assert len(session) == 16
    assert line == {
        "request_id": "mine",
        "route": CHAT,
        "key_id": None,
        "model": "m",
        "endpoint": "a",
        "policy": "round-robin",
        "status": 200,
        "cause": "completed",
        "attempts": 1,
        "stream": False,
        "prompt_tokens_estimated": line["prompt_tokens_estimated"],
        "prompt_tokens": 7,
        "cached_tokens": None,
        "completion_tokens": 3,
        "usage_source": "engine",
        "bytes_in": len(json.dumps(HELLO)),
        "bytes_out": len(answered.content),
        "prefix": None,
    }
    assert line["prompt_tokens_estimated"] > 0


async def test_a_stream_without_usage_is_counted_and_its_bytes_are_those_sent(log: Path) -> None:
    events = [b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'] * 3
    async with FakeEngine(stream(*events, DONE)) as engine, serving(engine, access_log=on(log)) as served:
        body = (await served.chat(STREAMED)).content
    (line,) = lines(log)
    assert (line["stream"], line["usage_source"], line["completion_tokens"]) == (True, "counted", 3)
    assert line["bytes_out"] == len(body) == len(b"".join(events) + DONE)


async def test_a_retry_is_one_line_with_its_attempts_and_the_last_endpoint(log: Path) -> None:
    async with (
        FakeEngine([answer(b"{}", 500)]) as a,
        FakeEngine([completion()]) as b,
        serving(a, b, access_log=on(log)) as served,
    ):
        for _ in range(2):  # at least one of them is tried on a first
            await served.chat()
    tried = [(line["endpoint"], line["cause"]) for line in lines(log)]
    assert tried == [("b", "completed")] * 2
    assert max(line["attempts"] for line in lines(log)) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b'{"model": "canary-model", "messages": []}', 404)],
)
async def test_a_request_that_reaches_no_endpoint_is_a_line_too(log: Path, body: bytes, status: int) -> None:
    async with FakeEngine() as engine, serving(engine, access_log=on(log)) as served:
        answered = await served.chat(body)
    (line,) = lines(log)
    assert (line["status"], line["cause"], line["attempts"], line["endpoint"]) == (status, "rejected", 0, None)
    assert (line["model"], line["queue_s"], line["bytes_out"]) == (None, None, len(answered.content))
    assert "canary" not in text(log)


@pytest.mark.parametrize("query", ["", "?x=1"])
async def test_a_body_that_is_too_large_is_a_line_too(log: Path, query: str) -> None:
    async with FakeEngine() as engine, serving(engine, server={"body_limit": 1024}, access_log=on(log)) as served:
        await served.client.post(CHAT + query, content=b"x" * 2000)
    (line,) = lines(log)
    assert (line["status"], line["cause"], line["route"]) == (413, "rejected", CHAT)


async def test_a_client_that_leaves_is_a_line_that_says_so(log: Path) -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, access_log=on(log)) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        request = await engine.request()
        await request.send(STREAM_HEAD, chunk(b'data: {"n": 1}\n\n'))
        await client.head()
        client.leave()
        await served.settled()
    (line,) = lines(log)
    assert (line["status"], line["cause"], line["bytes_out"]) == (499, "client_gone", 16)


async def test_a_stream_that_breaks_is_a_line_with_its_cause(log: Path) -> None:
    broken = [STREAM_HEAD, chunk(b"data: 1\n\n"), b"nonsense\r\n", LAST_CHUNK]
    async with FakeEngine(broken) as engine, serving(engine, access_log=on(log)) as served:
        await served.chat(STREAMED)
    (line,) = lines(log)
    assert (line["status"], line["cause"]) == (200, TerminationCause.UPSTREAM_ERROR.value)


@pytest.mark.parametrize("policy", ["round-robin", "prefix-affinity"])
async def test_prefixes_are_hashed_if_asked_for_whatever_the_policy(log: Path, policy: str) -> None:
    def body(last: str) -> dict[str, Any]:
        return HELLO | {"messages": [{"role": "user", "content": "shared " * 100 + last}]}

    async with FakeEngine([completion()]) as engine:
        wanted = on(log, prefix_blocks=2, hash_key="k")
        async with serving(engine, router={"policy": policy}, access_log=wanted) as served:
            for last in ("one", "two"):
                await served.chat(body(last))
    one, two = (line["prefix"] for line in lines(log))
    assert one == two
    assert len(one) == 2


async def test_a_session_from_the_body_is_in_the_log_as_its_hash(log: Path) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, access_log=on(log, hash_key="k")) as served:
        await served.chat(HELLO | {"prompt_cache_key": "mine"})
        await served.chat(HELLO, x_session_id="mine")
        await served.chat(HELLO)
    first, second, third = (line["session"] for line in lines(log))
    assert first == second is not None
    assert third is None


async def test_no_prompt_answer_key_or_session_gets_into_the_log(log: Path) -> None:
    body = STREAMED | {"messages": [{"role": "user", "content": "canary-prompt " * 100}], "user": "canary-user"}
    broken = [STREAM_HEAD, chunk(b"data: canary-answer\n\n"), b"canary-nonsense\r\n"]
    async with FakeEngine(broken) as engine:
        endpoint = {"url": engine.url, "api_key": "canary-engine-key"}
        async with serving(endpoint, access_log=on(log, prefix_blocks=8, hash_key="canary-hash")) as served:
            await served.chat(body, authorization="Bearer canary-client-key", x_session_id="canary-session")
            await served.chat(b'{"model": "m", "messages": canary-malformed}')
            await served.client.post(f"{CHAT}?key=canary-query", json=body)
    assert len(lines(log)) == 3
    assert "canary" not in text(log)


async def test_many_requests_at_once_lose_no_line(log: Path) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, access_log=on(log)) as served:
        await asyncio.gather(*(served.chat(x_request_id=f"r{n}") for n in range(150)))
    assert sorted(line["request_id"] for line in lines(log)) == sorted(f"r{n}" for n in range(150))


async def test_without_a_log_there_is_none_and_an_unusable_one_is_said(log: Path) -> None:
    async with FakeEngine([completion()]) as engine:
        async with serving(engine) as served:
            await served.chat()
            assert served.gateway.access_log is None
        with pytest.raises(OSError, match=r"the access log .* cannot be opened"):
            async with serving(engine, access_log={"to": "/no/such/place"}):
                pass


async def test_of_good_answers_a_part_is_logged_and_of_others_all(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    async with (
        FakeEngine([completion()]) as engine,
        serving(engine, access_log={"to": str(file), "sample": 0.0}) as served,
    ):
        assert (await served.chat()).status_code == 200
        assert (await served.chat(HELLO | {"model": "nobody's"})).status_code == 404
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == [404]
