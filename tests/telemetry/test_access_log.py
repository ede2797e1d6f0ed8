from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest

from llmgate.telemetry.access_log import BATCH, AccessLog, DroppedCollector, Entry
from tests.support.fake_engine import until

ENTRY = Entry(
    1_700_000_000.25, "id", "/v1/chat/completions", None, "m", "a", "round-robin", 200, "completed", 1, False,
    10, 11, None, 3, "engine", 0.0001, 0.5, 0.75, 100, 200, None, None,
)  # fmt: skip

FIELDS = """
    ts request_id route key_id model endpoint policy status cause attempts stream prompt_tokens_estimated prompt_tokens
    cached_tokens completion_tokens usage_source queue_s ttft_s duration_s bytes_in bytes_out session prefix
"""


def written(file: Path) -> int:
    """Lines that are whole: the writer may be in the middle of one."""
    return file.read_bytes().count(b"\n")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


async def test_a_line_has_every_field_of_the_contract_in_its_order(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log.write(ENTRY)
    await log.close()
    (line,) = lines(tmp_path / "log")
    assert list(line) == FIELDS.split()
    assert (line["ts"], line["cached_tokens"], line["duration_s"]) == (1_700_000_000.25, None, 0.75)


async def test_few_lines_are_written_soon_and_many_at_once(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = AccessLog(str(file))
    for _ in range(BATCH):
        log.write(ENTRY)
    await until(lambda: written(file) == BATCH)
    log.write(ENTRY)
    assert written(file) == BATCH
    await until(lambda: written(file) == BATCH + 1)  # by the timer
    await log.close()


async def test_what_is_written_before_reopening_is_in_the_old_file(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log.write(ENTRY)
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.reopen()
    log.write(ENTRY)
    log.write(ENTRY)
    await log.close()
    assert (len(lines(tmp_path / "log.1")), len(lines(tmp_path / "log"))) == (1, 2)


@given(text=st.text())
def test_no_text_can_begin_a_line_of_its_own(text: str) -> None:
    entry = replace(ENTRY, request_id=text, route=text, model=text, endpoint=text)

    async def encoded() -> bytes:
        log = AccessLog("/dev/null")
        block = log._encode([entry, entry])
        await log.close()
        return block

    block = asyncio.run(encoded())
    assert block.count(b"\n") == 2
    assert b"\r" not in block
    assert [json.loads(line)["request_id"] for line in block.split(b"\n")[:2]] == [text, text]


async def test_hashes_compare_under_one_key_and_not_under_another() -> None:
    one, same, other, made_up = (AccessLog("/dev/null", key=key, prefix_blocks=2) for key in ("k", "k", "other", ""))
    assert one.session("s") == same.session("s")
    assert len({log.session("s") for log in (one, other, made_up)}) == 3
    assert one.session("s") != one.session("t")
    assert one.prefix([1, 2, 3]) == same.prefix([1, 2, 4])
    assert one.prefix([1]) != other.prefix([1])
    for log in (one, same, other, made_up):
        await log.close()


async def test_lost_lines_are_in_a_metric_while_there_is_a_log() -> None:
    log = AccessLog("/dev/full")
    current: list[AccessLog | None] = [log]
    registry = CollectorRegistry()
    registry.register(DroppedCollector(lambda: current[0]))
    log.write(ENTRY)
    await log.close()
    page = generate_latest(registry).decode()
    assert 'llmgate_access_log_dropped_total{reason="write_failed"} 1.0' in page
    assert 'llmgate_access_log_dropped_total{reason="queue_full"} 0.0' in page
    current[0] = None
    assert "access_log" not in generate_latest(registry).decode()
