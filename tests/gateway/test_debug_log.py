"""The only place where texts are written, and only of those whose key is listed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from llmgate.telemetry.debug_log import LONGEST_SECRET, answer_text, fingerprint
from tests.support.fake_engine import FakeEngine, completion, sse, stream
from tests.support.serving import HELLO, STREAMED, serving

KEY, OTHER = "key-of-the-client-who-asked-for-help", "key-of-another"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "debug.log"


def on(log: Path, **more: Any) -> dict[str, Any]:
    return {"to": str(log), "keys": [fingerprint(KEY)[:16]], **more}


def text_of(log: Path) -> str:
    return log.read_text()


def mode_of(log: Path) -> int:
    return stat.S_IMODE(log.stat().st_mode)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text_of(log).splitlines()]


def says(text: str, **more: Any) -> dict[str, Any]:
    return HELLO | {"messages": [{"role": "user", "content": text}]} | more


async def test_only_whoever_is_listed_is_written_down(log: Path) -> None:
    async with FakeEngine([completion("an answer")]) as engine, serving(engine, debug_log=on(log)) as served:
        await served.chat(says("unheard"))
        await served.chat(says("unheard"), authorization=f"Bearer {OTHER}")
        await served.chat(says("a question"), authorization=f"Bearer {KEY}", x_request_id="one")
        await served.chat(says("a question"), x_api_key=KEY)
    one, two = lines(log)
    assert (one["request_id"], one["model"], one["endpoint"], one["status"]) == ("one", "m", "a", 200)
    assert "a question" in one["asked"]
    assert "an answer" in one["answered"]
    assert two["asked"] == one["asked"]
    assert "unheard" not in text_of(log)
    assert mode_of(log) == 0o600


async def test_secrets_are_taken_out_of_both_sides(log: Path) -> None:
    answer = completion("sure: sk-abcdefghijklmnop and canary-of-the-engine")
    endpoint_key = "canary-of-the-engine"
    async with FakeEngine([answer]) as engine:
        endpoint = {"url": engine.url, "api_key": endpoint_key}
        async with serving(endpoint, debug_log=on(log), admin={"token": "canary-of-admin"}) as served:
            asked = says(f"my key is {KEY}, password: hunter22, mail me@example.com, and canary-of-admin")
            await served.chat(asked, authorization=f"Bearer {KEY}")
    text = text_of(log)
    for secret in (KEY, "hunter22", "me@example.com", "canary-of-admin", endpoint_key, "sk-abcdefghijklmnop"):
        assert secret not in text
    assert text.count("[redacted: ") >= 6


async def test_a_secret_that_comes_in_pieces_of_a_stream_is_taken_out(log: Path) -> None:
    pieces = ["here: sk-", "abcdef", "ghijkl", "mnop done"]
    events = stream(*sse(*({"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces)))
    async with FakeEngine(events) as engine, serving(engine, debug_log=on(log)) as served:
        await served.chat(STREAMED, authorization=f"Bearer {KEY}")
    (line,) = lines(log)
    assert line["answered"] == "here: [redacted: key] done"


async def test_what_is_refused_is_written_too(log: Path) -> None:
    async with FakeEngine() as engine, serving(engine, debug_log=on(log)) as served:
        await served.chat(says("x", model="none"), authorization=f"Bearer {KEY}")
        await served.chat(b'{"broken', authorization=f"Bearer {KEY}")
    one, two = lines(log)
    assert (one["status"], one["endpoint"]) == (404, None)
    assert (two["status"], two["model"], two["asked"]) == (400, None, '{"broken')


async def test_long_texts_are_cut_and_a_secret_in_two_leaves_nothing(log: Path) -> None:
    question = "x " * 30 + "y" * (LONGEST_SECRET - 40) + " sk-" + "abcdefgh" * 20
    async with FakeEngine([completion()]) as engine, serving(engine, debug_log=on(log, most=100)) as served:
        await served.chat(says(question), authorization=f"Bearer {KEY}")
    (line,) = lines(log)
    assert line["asked"].endswith("…")
    assert len(line["asked"]) <= 101
    assert "abcdefgh" not in line["asked"]


async def test_where_something_is_left_the_text_is_withheld_and_counted(log: Path) -> None:
    """The word that stands in for secrets is itself a secret here."""
    admin = {"token": "redacted"}
    async with FakeEngine([completion()]) as engine, serving(engine, debug_log=on(log), admin=admin) as served:
        await served.chat(says("it was redacted"), authorization=f"Bearer {KEY}")
        assert await served.metric("llmgate_debug_log_withheld_total") >= 1
    (line,) = lines(log)
    assert line["asked"] is None


async def test_a_change_of_it_needs_a_restart_and_texts_are_nowhere_else(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    access = tmp_path / "access.log"
    sections: dict[str, Any] = {"debug_log": on(log), "access_log": {"to": str(access)}}
    async with FakeEngine([completion("canary-answer")]) as engine, serving(engine, **sections) as served:
        await served.chat(says("canary-question"), authorization=f"Bearer {KEY}")
        page = (await served.client.get("/metrics")).text
        shown = (await served.admin.get("/api/config")).text
    out = capfd.readouterr()
    for sink in (text_of(access), page, shown, out.out, out.err):
        assert "canary" not in sink


def test_a_streams_text_is_that_of_its_deltas_in_any_api() -> None:
    chat = b'data: {"choices":[{"delta":{"content":"a"}},{"delta":{"reasoning_content":"b"}}]}\n\n'
    legacy = b'data: {"choices":[{"text":"c"}]}\n\n'
    anthropic = b'event: x\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"d"}}\n\n'
    responses = b'data: {"type":"response.output_text.delta","delta":"e"}\n\ndata: [DONE]\n\ndata: {"cut'
    assert answer_text(chat + legacy + anthropic + responses) == b"abcde"
    assert answer_text(b'{"whole": 1}') == b'{"whole": 1}'
