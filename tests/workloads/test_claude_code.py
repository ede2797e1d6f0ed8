from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from llmgate.workloads import TraceRequest, WorkloadError, load
from tests.workloads.files import call, jsonl, session

LIMIT = 131_072
SLICE = Path("benchmarks/data/claude_code_100_sessions.jsonl.gz")


def read(tmp_path: Path, *sessions: object, **options: Any) -> list[TraceRequest]:
    return load(jsonl(tmp_path / "t.jsonl", *sessions), **options).requests


def test_a_request_keeps_blocks_of_the_one_before_it_and_adds_to_them(tmp_path: Path) -> None:
    one, two, three = read(
        tmp_path,
        session(
            call(0, 4 * 64, 9, 0, (10, 4)),
            call(9, 6 * 64 + 5, 9, 4, (20, 1), (30, 1)),
            call(20, 3 * 64, 9, 2, (40, 1)),
        ),
    )
    base = one.blocks[0] - 10
    assert [[block - base for block in request.blocks] for request in (one, two, three)] == [
        [10, 11, 12, 13],
        [10, 11, 12, 13, 20, 30],
        [10, 11, 40],
    ]


def test_each_request_waits_on_the_one_before_it_and_thinks(tmp_path: Path) -> None:
    one, two, three = read(
        tmp_path,
        session(call(0, 64, 9, 0), call(9, 64, 9, 0, think_time=7.0), call(30, 64, 9, 0)),  # the last: by its time
    )
    assert [(r.after, r.think_s) for r in (one, two, three)] == [(None, 0.0), (0, 7.0), (1, 20.0)]
    assert two.at == one.at + 1.0 + 7.0  # an answer took a second


def test_pauses_are_cut(tmp_path: Path) -> None:
    one, two = read(tmp_path, session(call(0, 64, 9, 0), call(9000, 64, 9, 0, think_time=8999.0)), max_think_s=60)
    assert (two.think_s, two.at) == (60, one.at + 61)


def test_blocks_of_different_sessions_are_different(tmp_path: Path) -> None:
    one = session(call(0, 256, 9, 0, (1, 4)))
    first, second = read(tmp_path, one, one)
    assert not set(first.blocks) & set(second.blocks)


def test_sessions_with_the_same_counts_share_tools_and_system_prompt(tmp_path: Path) -> None:
    def blocks(*systems: tuple[int, int]) -> list[list[int]]:
        calls = call(0, 640, 9, 0, (1, 10))
        return [list(r.blocks) for r in read(tmp_path, *(session(calls, tools=t, system=s) for t, s in systems))]

    same, again, other_system, other_tools = blocks((200, 200), (200, 200), (200, 199), (201, 200))
    shared = [len(set(same) & set(blocks)) for blocks in (again, other_system, other_tools)]
    assert shared == [400 // 64, 200 // 64, 0]
    assert same[: 400 // 64] == again[: 400 // 64]
    path = jsonl(tmp_path / "t", *[session(call(0, 640, 9, 0, (1, 10)), tools=200, system=200)] * 2)
    first, second = load(path, shared_system=False).requests
    assert not set(first.blocks) & set(second.blocks)


def test_an_answer_counts_as_cached_where_the_next_request_goes_on_from_it(tmp_path: Path) -> None:
    def first_of(after: dict[str, object]) -> int:
        return len(read(tmp_path, session(call(0, 128, 70, 0, (1, 2)), after))[0].blocks)

    assert first_of(call(9, 64 * 4, 9, 2, (3, 2))) == (128 + 70) // 64
    assert first_of(call(9, 64 * 3, 9, 2, (3, 1))) == 2  # grows by less than the answer: it is not in there
    assert first_of(call(9, 64 * 4, 9, 1, (3, 3))) == 2  # begins anew earlier


def test_a_subagent_runs_beside_the_agent_that_called_it(tmp_path: Path) -> None:
    agent = {
        "t": 4.0,
        "type": "subagent",
        "agent_id": "a",
        "requests": [call(0, 64, 9, 0, (7, 1)), call(3, 128, 9, 1, (8, 1))],
    }
    requests = read(tmp_path, session(call(0, 64, 9, 0, (1, 1)), agent, call(20, 128, 9, 1, (2, 1), think_time=19.0)))
    assert [(request.after, request.think_s) for request in requests] == [
        (None, 0),
        (0, pytest.approx(3)),
        (1, 2),
        (0, 19),
    ]
    main, sub, sub_again, main_again = (tuple(request.blocks) for request in requests)
    assert main_again[:1] == main
    assert sub_again[:1] == sub
    assert not set(main_again) & set(sub_again)


def test_what_is_beyond_the_model_is_dropped_and_its_chain_closed(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "t",
        session(
            call(0, 64, 9, 0),
            call(10, 900, 200, 0, think_time=2.0),
            call(20, 80, 9, 0, think_time=5.0),
            call(30, 80, 0, 0, think_time=1.0),
        ),
    )
    workload = load(path, max_model_len=1000)
    assert [(r.prompt_tokens, r.after, r.think_s) for r in workload.requests] == [(64, None, 0), (80, 0, 7.0)]
    assert workload.dropped == {"prompt and output beyond 1000 tokens": 1, "no prompt or no output tokens": 1}


def test_a_sample_of_sessions_is_the_seeds(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", *[session(call(0, 64, 9, 0), name=f"s{k}") for k in range(50)])

    def sampled(seed: int) -> list[str | None]:
        return [request.session for request in load(path, seed=seed, sessions=10).requests]

    assert len(set(sampled(1))) == 10
    assert sampled(1) == sampled(1) != sampled(2)
    assert len(load(path, sessions=99).requests) == 50


def test_sessions_begin_at_the_rate_given(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", *[session(call(0, 64, 9, 0))] * 400)
    slow, fast = (load(path, session_rate=rate).requests[-1].at for rate in (0.5, 5.0))
    assert slow == pytest.approx(10 * fast)
    assert slow == pytest.approx(800, rel=0.2)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call(0, 128, 9, 1)], "keep: more blocks than the request before"),
        ([call(0, 128, 9, 0, (1, 3))], "add: more blocks than `in`"),
        ([call(0, 128, 9, 0, (1, 10**9))], "add: more blocks than `in`"),
        ([{"t": 0, "type": "n", "out": 3}], "without `in` or `out`"),
        ([], "requests: Expected `array` of length >= 1"),
    ],
)
def test_a_session_whose_blocks_do_not_fit_is_refused(
    tmp_path: Path, calls: list[dict[str, object]], reason: str
) -> None:
    good = session(call(0, 64, 9, 0))
    path = jsonl(tmp_path / "t", good, session(*calls))
    with pytest.raises(WorkloadError, match=f":2: .*{reason}"):
        load(path)
    assert len(load(path, skip_bad=True).requests) == 1


def test_endless_nesting_of_subagents_is_a_bad_line(tmp_path: Path) -> None:
    nested: dict[str, Any] = call(0, 64, 9, 0)
    for _ in range(51):
        nested = {"t": 0, "type": "subagent", "requests": [nested]}
    with pytest.raises(WorkloadError, match=r"t\.jsonl:1: .*nested deeper than 50"):
        read(tmp_path, session(nested))


def test_real_sessions_are_chains_of_blocks_that_fit_their_prompts() -> None:
    requests = load(SLICE, max_model_len=LIMIT).requests
    predecessor: dict[int, int] = {}
    for request in requests:
        blocks = tuple(request.blocks)
        assert len(blocks) * 64 <= request.prompt_tokens + request.output_tokens <= LIMIT
        for before, block in itertools.pairwise((-1, *blocks)):
            assert predecessor.setdefault(block, before) == before  # equal ids have equal beginnings


def test_requests_of_a_session_share_memory() -> None:
    requests = load(SLICE).requests
    arrays = {
        id(request.blocks.obj): request.blocks.obj for request in requests if isinstance(request.blocks, memoryview)
    }
    held = sum(memoryview(array).nbytes for array in arrays.values())
    assert sum(8 * len(request.blocks) for request in requests) > 10 * held
