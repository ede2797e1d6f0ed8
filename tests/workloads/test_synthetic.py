from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from llmgate.workloads import TraceRequest, WorkloadError, about, names, options, parse, synthetic

FINGERPRINT = """
from llmgate.workloads import names, synthetic
for name in names():
    for request in synthetic(name, seed=3, requests=50).requests:
        print(request.at, request.prompt_tokens, request.output_tokens, list(request.blocks), request.session)
"""


def fields(request: TraceRequest) -> list[object]:
    return [
        tuple(value) if name == "blocks" else value
        for name in TraceRequest.__slots__
        for value in [getattr(request, name)]
    ]


@pytest.mark.parametrize("name", names())
def test_the_same_seed_is_the_same_workload(name: str) -> None:
    one, again, other = (synthetic(name, seed=seed, requests=60).requests for seed in (1, 1, 2))
    assert [fields(r) for r in one] == [fields(r) for r in again] != [fields(r) for r in other]


def test_the_same_seed_is_the_same_workload_in_every_process() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize("name", names())
def test_requests_are_as_many_as_asked_for_in_order_and_sound(name: str) -> None:
    requests = synthetic(name, requests=300).requests
    assert len(requests) == 300
    assert all(a.at <= b.at for a, b in itertools.pairwise(requests))
    for index, request in enumerate(requests):
        assert request.prompt_tokens >= 1
        assert request.output_tokens >= 1
        assert len(request.blocks) * request.block_tokens <= request.prompt_tokens + request.output_tokens
        assert request.after is None or request.after < index


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_arrivals_have_the_rate_and_the_burstiness_asked_for(cv: float) -> None:
    times = [request.at for request in synthetic("gamma", requests=40_000, rate=20.0, cv=cv).requests]
    gaps = [b - a for a, b in itertools.pairwise([0.0, *times])]
    assert statistics.fmean(gaps) == pytest.approx(1 / 20, rel=0.06)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.06, abs=1e-9)


def test_lengths_have_the_mean_asked_for() -> None:
    requests = synthetic("poisson", requests=20_000, prompt_tokens=700, output_tokens=90, spread=0.5).requests
    assert statistics.fmean(r.prompt_tokens for r in requests) == pytest.approx(700, rel=0.02)
    assert statistics.stdev(r.output_tokens for r in requests) == pytest.approx(45, rel=0.04)


def test_the_rate_does_not_change_the_requests() -> None:
    slow, fast = (synthetic("poisson", rate=rate, requests=100).requests for rate in (1.0, 10.0))
    assert [r.prompt_tokens for r in slow] == [r.prompt_tokens for r in fast]


def test_uniform_lengths_stay_within_their_bounds() -> None:
    requests = synthetic("uniform", requests=2000, prompt_min=5, prompt_max=9, output_min=1, output_max=2).requests
    assert {r.prompt_tokens for r in requests} == {5, 6, 7, 8, 9}
    assert {r.output_tokens for r in requests} == {1, 2}


def test_system_prompts_are_shared_by_those_who_have_the_same() -> None:
    requests = synthetic("shared-prompts", requests=2000, prompts=3, skew=1.0, system_tokens=160).requests
    uses = Counter(tuple(r.blocks) for r in requests)
    assert [len(blocks) for blocks in uses] == [10, 10, 10]
    assert len({block for blocks in uses for block in blocks}) == 30
    shares = [count / 2000 for _, count in uses.most_common()]
    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.03)  # Zipf: 1, 1/2, 1/3


def test_tenants_are_skewed_and_have_a_system_prompt_each() -> None:
    requests = synthetic("skewed-tenants", requests=3000, tenants=10, skew=1.5).requests
    counts = Counter(r.tenant for r in requests)
    assert [tenant for tenant, _ in counts.most_common(2)] == ["tenant-0", "tenant-1"]
    assert counts["tenant-0"] > 10 * counts["tenant-9"]
    assert len({(r.tenant, r.blocks) for r in requests}) == 10


def test_a_share_of_the_prompts_is_long() -> None:
    requests = synthetic("long-context", requests=4000, long_share=0.25, spread=0.1).requests
    assert sum(r.prompt_tokens > 10_000 for r in requests) / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_turn_holds_all_that_was_said_before_it() -> None:
    requests = synthetic("multi-turn", requests=1500, turns=5).requests
    followed = 0
    for request in requests:
        if request.after is not None:
            before = requests[request.after]
            assert before.session == request.session
            assert request.prompt_tokens > before.prompt_tokens + before.output_tokens
            assert tuple(request.blocks)[: len(before.blocks)] == tuple(before.blocks)
            assert request.at > before.at
            followed += 1
    assert followed > 900


def test_conversations_share_only_their_system_prompts() -> None:
    requests = synthetic("multi-turn", requests=400, prompts=2, system_tokens=64).requests
    owners: dict[int, set[str | None]] = {}
    for request in requests:
        for block in request.blocks:
            owners.setdefault(block, set()).add(request.session)
    assert sorted(block for block, sessions in owners.items() if len(sessions) > 1) == list(range(8))


def test_a_conversation_ends_before_the_context_does() -> None:
    requests = synthetic("multi-turn", requests=500, max_context=2000, turns=30).requests
    assert max(r.prompt_tokens + r.output_tokens for r in requests) <= 2000


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(WorkloadError, match=r"unknown workload 'multiturn': did you mean multi-turn\?"):
        synthetic("multiturn")
    with pytest.raises(WorkloadError, match="there are gamma, long-context"):
        about("qqqqqq")


def test_text_becomes_a_name_and_numbers() -> None:
    assert parse("multi-turn:turns=8,rate=2") == ("multi-turn", {"turns": 8, "rate": 2.0})
    assert parse("uniform") == ("uniform", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("multi-turn:turn=3", "no option 'turn': did you mean turns?"),
        ("uniform:zzz=3", "no option 'zzz': it takes requests, rate, cv, "),
        ("multi-turn:turns=x", "option turns: 'x' is not a whole number"),
        ("multi-turn:turns=2.5", "option turns: '2.5' is not a whole number"),
        ("multi-turn:rate=nan", "option rate: 'nan' is not a number"),
        ("multi-turn:turns", "'turns' is not key=value"),
        ("multi-turn:turns=1,turns=2", "turns is given twice"),
        ("multi-turn:seed=3", "no option 'seed'"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=reason.replace("?", r"\?")):
        parse(text)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("poisson", {"rate": 0}),
        ("poisson", {"requests": 0}),
        ("poisson", {"prompt_tokens": 0}),
        ("poisson", {"spread": -1}),
        ("gamma", {"cv": -0.1}),
        ("uniform", {"prompt_min": 9999}),
        ("shared-prompts", {"prompts": 0}),
        ("skewed-tenants", {"tenants": 0}),
        ("long-context", {"long_share": 1.5}),
        ("multi-turn", {"turns": 0}),
        ("multi-turn", {"think_s": -1}),
        ("multi-turn", {"max_context": 513}),
    ],
)
def test_a_value_out_of_range_is_named(name: str, given: dict[str, Any]) -> None:
    (option,) = given
    with pytest.raises(WorkloadError, match=f"option {option}: "):
        synthetic(name, **given)


def test_every_workload_says_what_it_is_and_takes() -> None:
    for name in names():
        assert about(name).endswith((".", ":", ","))
        assert options(name)["requests"] == 1000
