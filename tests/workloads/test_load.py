from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgate.workloads import Workload, WorkloadError, formats, load, load_text, trace_options
from tests.workloads.files import call, jsonl, mooncake, session

DATA = Path("benchmarks/data")
GOOD = mooncake(0, 600, 5, [1, 2])
FORMATS = {
    "access-log": {"ts": 5.0, "request_id": "r", "prompt_tokens": 3, "completion_tokens": 2},
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44",
    "claude-code": session(call(0, 128, 5, 0, (1, 2))),
    "llmgate": {"at": 0.0, "prompt_tokens": 3, "output_tokens": 2},
    "mooncake": GOOD,
}


@pytest.mark.parametrize("format", FORMATS)
def test_the_format_is_told_from_the_content(tmp_path: Path, format: str) -> None:
    path = jsonl(tmp_path / "trace", FORMATS[format])
    assert len(load(path).requests) == 1
    for other in set(FORMATS) - {format}:
        with pytest.raises(WorkloadError):
            load(path, format=other)


def test_every_format_is_tested() -> None:
    assert formats() == sorted(FORMATS)


def test_a_packed_trace_is_the_same_trace(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "a.jsonl", GOOD, mooncake(0, 512, 9, [7]))
    packed = tmp_path / "b"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [(r.at, r.blocks) for r in load(plain).requests] == [(r.at, r.blocks) for r in load(packed).requests]


def test_a_bad_line_is_named_by_file_line_and_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", GOOD, "", mooncake(0, -5, 5, []))
    with pytest.raises(WorkloadError, match=rf"^{path}:3: input_length: Expected `int` >= 1$"):
        load(path)


BAD = (
    ("{", "truncated"),
    ('{"timestamp": NaN, "input_length": 1, "output_length": 1, "hash_ids": [1]}', "malformed"),
    ('{"timestamp": 1e999, "input_length": 1, "output_length": 1, "hash_ids": [1]}', "range"),
    ('{"timestamp": 0, "input_length": "9", "output_length": 1, "hash_ids": [1]}', "input_length: Expected `int`, got"),
    ('{"timestamp": 0, "output_length": 1, "hash_ids": [1]}', "missing required field `input_length`"),
    ('{"timestamp": 0, "input_length": 9, "output_length": 0, "hash_ids": [1]}', "output_length: Expected `int` >= 1"),
    ('{"timestamp": -1, "input_length": 9, "output_length": 1, "hash_ids": [1]}', "timestamp: Expected `float` >= 0"),
    ('{"timestamp": 0, "input_length": 999, "output_length": 1, "hash_ids": [1]}', "hash_ids: not one for every 512"),
    ('{"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [-1]}', "hash_ids"),
    ('{"x": ' + "[" * 100_000, "recursion|deep|malformed|truncated"),
    ("[]", "Expected `object`"),
    ('{"a": "\\ud800"}', "."),
)


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_what_is_wrong_with_a_line_is_said(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=f":2: .*(?i:{reason})"):
        load(jsonl(tmp_path / "t.jsonl", GOOD, line))


def test_bad_lines_are_counted_by_reason_where_they_may_be_skipped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", "nonsense", "{{{", GOOD, mooncake(0, 0, 5, []), mooncake(0, -3, 5, []), GOOD)
    workload = load(path, skip_bad=True)
    assert len(workload.requests) == 2
    assert workload.dropped["malformed line: input_length: Expected `int` >= 1"] == 2
    assert sum(workload.dropped.values()) == 4


def test_lines_that_differ_in_where_they_break_off_are_one_reason(tmp_path: Path) -> None:
    workload = load(jsonl(tmp_path / "t.jsonl", GOOD, '{"a": x', '{"abc": x'), skip_bad=True)
    assert list(workload.dropped.values()) == [2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no requests"),
        (b"\n \n", "holds no requests"),
        (b"{}\n", "format is not known"),
        (b"\x1f\x8b\x08zz", "unpacked"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=reason):
        load(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="No such file"):
        load(tmp_path / "missing.jsonl")
    with pytest.raises(WorkloadError, match="directory"):
        load(tmp_path)


def test_an_archive_that_breaks_off_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(jsonl(tmp_path / "a", *[mooncake(k, 600, k + 1, [k, 2]) for k in range(500)]).read_bytes())
    path = tmp_path / "b.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkloadError, match="cannot be unpacked"):
        load(path)


def test_a_trace_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", session(call(0, 128, 5, 0, (1, 2))))
    with pytest.raises(WorkloadError, match=r"no request is left.*beyond 100 tokens"):
        load(path, max_model_len=100)


def test_options_come_with_the_file_on_a_command_line(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a:b.jsonl", GOOD, mooncake(3000, 600, 5, [1, 2]))
    assert [r.at for r in load_text(f"{path}:tick_s=0").requests] == [0, 3]
    assert len(load_text(str(path)).requests) == 2
    with pytest.raises(WorkloadError, match="did you mean tick_s"):
        load_text(f"{path}:tick=0")
    with pytest.raises(WorkloadError, match="option tick_s: 'soon' is not a number"):
        load_text(f"{path}:tick_s=soon")
    with pytest.raises(WorkloadError, match="did you mean mooncake"):
        load_text(f"{path}:format=moncake")


def test_options_of_a_reader_can_be_asked_for() -> None:
    assert trace_options("mooncake") == {"tick_s": 3.0, "block_tokens": 512}
    with pytest.raises(WorkloadError, match="unknown trace format"):
        trace_options("x")


def attempt(path: Path, format: str | None, *, skip_bad: bool) -> Workload | None:
    try:
        return load(path, format=format, skip_bad=skip_bad)
    except WorkloadError:
        return None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["in", "out", "keep", "add", "requests", "t", "x"]), inner)
    ),
    max_leaves=12,
)
KEYS = [
    "timestamp",
    "input_length",
    "output_length",
    "hash_ids",
    "at",
    "prompt_tokens",
    "output_tokens",
    "blocks",
    "after",
]
KEYS += ["ts", "request_id", "completion_tokens", "prefix", "id", "block_size", "requests", "tool_tokens"]
GARBLED = st.dictionaries(st.sampled_from(KEYS), ANYTHING).map(lambda line: json.dumps(line).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=60) | GARBLED, max_size=5),
    format=st.sampled_from([None, *FORMATS]),
    skip_bad=st.booleans(),
)
def test_nothing_but_a_workload_error_comes_of_any_bytes(
    tmp_path: Path, lines: list[bytes], format: str | None, skip_bad: bool
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"\n".join(lines))
    attempt(path, format, skip_bad=skip_bad)


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.gz")))
def test_nothing_but_a_workload_error_comes_of_a_real_trace_with_bytes_changed(tmp_path: Path, name: str) -> None:
    content = gzip.decompress((DATA / name).read_bytes())[:200_000]
    content = content[: content.rindex(b"\n") + 1]
    chance = random.Random(name)
    path = tmp_path / "trace"
    for _ in range(20):
        changed = bytearray(content)
        for _ in range(3):
            changed[chance.randrange(len(changed))] = chance.choice(b'0-9",:[]{}x\n\x00\xff')
        path.write_bytes(changed)
        attempt(path, None, skip_bad=bool(chance.randrange(2)))


@pytest.mark.parametrize(
    ("name", "requests", "prompt_tokens"),
    [
        ("mooncake_conversation_first_half.jsonl.gz", 5719, 73_604_194),
        ("claude_code_100_sessions.jsonl.gz", 8725, 1_084_880_194),
        ("azure_2023_conv_30min.csv.gz", 10_108, 12_566_772),
    ],
)
def test_the_slices_in_the_repository_are_read_whole(name: str, requests: int, prompt_tokens: int) -> None:
    workload = load(DATA / name)
    assert len(workload.requests) == requests
    assert sum(request.prompt_tokens for request in workload.requests) == prompt_tokens
    assert all(a.at <= b.at for a, b in zip(workload.requests, workload.requests[1:], strict=False))
