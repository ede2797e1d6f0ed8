"""What the readers make of what they read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from llmgate.core.prefix import FINE_BLOCKS
from llmgate.telemetry.access_log import Entry
from llmgate.workloads import TraceRequest, Workload, WorkloadError, load, save
from tests.workloads.files import jsonl, mooncake


def test_the_last_hash_of_mooncake_counts_only_if_its_block_is_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", mooncake(0, 1025, 5, [1, 2, 3]), mooncake(9000, 1024, 5, [1, 2]))
    partial, whole = load(path).requests
    assert (partial.blocks, whole.blocks, whole.block_tokens) == ((1, 2), (1, 2), 512)


def test_requests_of_one_tick_are_spread_over_it_by_the_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", *[mooncake(3000, 9, 5, [k]) for k in range(200)])
    times = [request.at for request in load(path, seed=1).requests]
    assert times == sorted(times)
    assert 3.0 <= times[0] < 3.2
    assert 5.8 < times[-1] < 6.0
    assert times == [request.at for request in load(path, seed=1).requests]
    assert times != [request.at for request in load(path, seed=2).requests]


def test_azure_times_count_from_the_first_arrival(tmp_path: Path) -> None:
    rows = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r",
        "2024-05-12 00:00:01.500000+00:00,20,2\r",
        "2024-05-11 23:59:59.2500000,10,1\r",
        "2024-05-12 02:00:02+02:00,30,3",
    )
    requests = load(jsonl(tmp_path / "t.csv", *rows)).requests
    assert [(r.at, r.prompt_tokens, r.output_tokens) for r in requests] == [(0, 10, 1), (2.25, 20, 2), (2.75, 30, 3)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2023-11-16 18:15:46,374", "not 3 fields"),
        ("yesterday,374,44", "TIMESTAMP: not a date and time 'yesterday'"),
        ("2023-11-16 18:15:46,0,44", "ContextTokens: not a whole number"),
        ("2023-11-16 18:15:46,9,-1", "GeneratedTokens: not a whole number"),
        ("2023-11-16 18:15:46,9,nan", "GeneratedTokens: not a whole number"),
        ("2023-11-16 18:15:46,9.5,1", "ContextTokens: not a whole number"),
        ("2023-11-16 18:15:46," + "9" * 5000 + ",1", "ContextTokens: not a whole number"),
    ],
)
def test_what_is_wrong_with_a_row_of_azure_is_said(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=f":2: {reason}"):
        load(jsonl(tmp_path / "t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens", row))


def entry(ts: float, prompt: int | None, completion: int | None, **more: object) -> str:
    fields: dict[str, object] = dict.fromkeys(Entry.__struct_fields__)
    fields |= {"ts": ts, "request_id": "r", "route": "/v1/chat/completions", "policy": "p", "status": 200}
    fields |= {"cause": "completed", "attempts": 1, "duration_s": 1.0, "bytes_in": 1, "bytes_out": 1}
    fields |= {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return msgspec.json.encode(msgspec.convert(fields, Entry)).decode()


def test_the_access_log_is_a_trace_of_what_has_token_counts(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "access.log",
        entry(1005.5, 300, 20, session="s", key_id="team", model="m"),
        entry(1001.0, None, None),
        entry(1002.0, 50, 0),
        entry(1003.0, 80, 10, model="m"),
    )
    workload = load(path)
    first, second = workload.requests
    assert (first.at, first.prompt_tokens, first.model) == (0, 80, None)
    assert (second.at, second.session, second.tenant, second.output_tokens) == (2.5, "s", "team", 20)
    assert workload.dropped == {"no token counts": 1, "no prompt or no output tokens": 1}


def test_models_of_the_access_log_are_named_if_there_are_several(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "access.log", entry(1, 9, 1, model="a"), entry(2, 9, 1, model="b"))
    assert [request.model for request in load(path).requests] == ["a", "b"]


def test_equal_hashes_of_the_access_log_are_equal_blocks_as_far_as_the_prompt_reaches(tmp_path: Path) -> None:
    fine = [f"{k:016x}" for k in range(FINE_BLOCKS)]
    path = jsonl(
        tmp_path / "access.log",
        entry(1, 64 * (FINE_BLOCKS + 5) + 3, 1, prefix=[*fine, "coarse-a", "coarse-b"]),
        entry(2, 10_000, 1, prefix=[*fine, "coarse-a", "coarse-c"]),
        entry(3, 200, 1, prefix=[*fine]),
    )
    long, longer, short = (request.blocks for request in load(path).requests)
    assert len(long) == FINE_BLOCKS + 5  # a large block is four small ones, and the last does not fit
    assert len(longer) == FINE_BLOCKS + 8
    assert tuple(long)[: FINE_BLOCKS + 4] == tuple(longer)[: FINE_BLOCKS + 4]
    assert long[FINE_BLOCKS + 4] != longer[FINE_BLOCKS + 4]
    assert short == tuple(long)[:3]


def test_what_is_saved_is_loaded_again_as_it_was(tmp_path: Path) -> None:
    requests = [
        TraceRequest(0.1, 100, 20, blocks=(5, 6), session="s", tenant="t", model="m", max_tokens=30, priority=-1),
        TraceRequest(0.7, 200, 1, block_tokens=64, blocks=memoryview(b"\x01\x02")),
        TraceRequest(3.25, 300, 2, after=0, think_s=1.5),
    ]
    for name in ("w.jsonl", "w.jsonl.gz"):
        save(Workload("w", requests), tmp_path / name)
        for saved, loaded in zip(requests, load(tmp_path / name).requests, strict=True):
            for field in TraceRequest.__slots__:
                wanted = getattr(saved, field)
                assert getattr(loaded, field) == (tuple(wanted) if field == "blocks" else wanted), field


def test_the_same_workload_is_the_same_file(tmp_path: Path) -> None:
    workload = Workload("w", [TraceRequest(0, 1, 1)])
    for name in ("a.gz", "b.gz"):
        save(workload, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    with pytest.raises(WorkloadError, match="cannot be written"):
        save(workload, tmp_path / "missing" / "a")


PLAIN = {"at": 1, "prompt_tokens": 3, "output_tokens": 2}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (PLAIN | {"after": 2}, "after: not a line before this one"),
        (PLAIN | {"at": 0.5, "after": 1}, "at: before that of the request it comes after"),
        (PLAIN | {"blocks": [1]}, "blocks: more than prompt and output have tokens for"),
        (PLAIN | {"think": 2}, "unknown field `think`"),
    ],
)
def test_what_is_wrong_with_a_plain_line_is_said(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(WorkloadError, match=f":2: .*{reason}"):
        load(jsonl(tmp_path / "t", PLAIN, line))


def test_what_waited_on_a_skipped_line_arrives_at_its_own_time(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "t",
        PLAIN,
        PLAIN | {"prompt_tokens": 0},
        PLAIN | {"at": 5, "after": 2, "think_s": 3.0},
        PLAIN | {"at": 6, "after": 3},
    )
    first, second, third = load(path, skip_bad=True).requests
    assert (second.at, second.after, second.think_s) == (5, None, 0)
    assert third.after == 1
    assert first.after is None
