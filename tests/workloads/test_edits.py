from __future__ import annotations

import pytest

from llmgate.workloads import TraceRequest, Workload, WorkloadError, first, repeat, scaled, synthetic, window


def chain() -> Workload:
    """Two conversations, of three turns and one."""
    return Workload(
        "w",
        [
            TraceRequest(1.0, 10, 5, blocks=(1,), session="a"),
            TraceRequest(2.0, 20, 5, blocks=(7,), session="b"),
            TraceRequest(4.0, 30, 5, blocks=(1, 2), session="a", after=0, think_s=2.0),
            TraceRequest(8.0, 40, 5, blocks=(1, 2, 3), session="a", after=2, think_s=3.0),
        ],
        {"reason": 2},
    )


def test_a_faster_workload_thinks_as_long() -> None:
    fast = scaled(chain(), 2.0)
    assert [(r.at, r.think_s) for r in fast.requests] == [(0.5, 0), (1.0, 0), (2.0, 2.0), (4.0, 3.0)]
    assert fast.dropped == {"reason": 2}
    assert [request.at for request in chain().requests] == [1, 2, 4, 8]


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(WorkloadError, match="rate scale"):
        scaled(chain(), scale)


def test_the_first_requests_are_those_that_came_first() -> None:
    assert [request.prompt_tokens for request in first(chain(), 3).requests] == [10, 20, 30]
    assert first(chain(), 0).requests == []
    assert len(first(chain(), 99).requests) == 4


def test_a_window_opens_chains_that_began_before_it() -> None:
    cut = window(chain(), 2.0, 9.0).requests
    assert [(r.at, r.after, r.think_s) for r in cut] == [(0.0, None, 0.0), (2.0, None, 0.0), (6.0, 1, 3.0)]


def test_repeating_is_as_much_work_again_and_shares_nothing() -> None:
    tripled = repeat(chain(), 3).requests
    assert len(tripled) == 12
    assert [r.at for r in tripled] == sorted(r.at for r in tripled)
    blocks = [{b for r in tripled[k : k + 4] for b in r.blocks} for k in (0, 4, 8)]
    assert [len(each) for each in blocks] == [4, 4, 4]
    assert not blocks[0] & blocks[1] | blocks[1] & blocks[2] | blocks[0] & blocks[2]
    assert [r.after for r in tripled] == [None, None, 0, 2, None, None, 4, 6, None, None, 8, 10]
    assert len({r.session for r in tripled}) == 6


def test_copies_of_long_conversations_wait_on_their_own() -> None:
    workload = synthetic("multi-turn", requests=200)
    twice = repeat(workload, 2).requests
    assert all(r.after is None or twice[r.after].session == r.session for r in twice)
    assert all(r.after is None or r.after < k for k, r in enumerate(twice))


def test_repeating_nothing_or_once_is_the_same() -> None:
    assert repeat(Workload("w", []), 3).requests == []
    assert [r.at for r in repeat(chain(), 1).requests] == [1, 2, 4, 8]
