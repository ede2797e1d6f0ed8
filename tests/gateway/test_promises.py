"""Targets, predictions and explanations, over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.testing.fake_upstream import CLOSE, STREAM_HEAD, Script, answer, chunk
from tests.support.fake_engine import FakeEngine, completion, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import HELLO, STREAMED, Served, serving

POLICY = {"policy": "expected-latency"}
ANSWER = stream(*sse({"n": 1}, {"n": 2}, {"usage": {"prompt_tokens": 5, "completion_tokens": 9}}))
HOPELESS, EASY = "0.000001", "60000"


async def counted(served: Served, target: str) -> tuple[float, float]:
    """Requests that met it, and that missed it."""
    name = f'llmgate_slo_requests_total{{model="m",target="{target}",met='
    return await served.metric(f'{name}"true"}}'), await served.metric(f'{name}"false"}}')


async def test_a_stream_counts_once_for_each_of_its_targets() -> None:
    async with FakeEngine(ANSWER) as engine, serving(engine, router=POLICY) as served:
        await served.chat(STREAMED, x_llmgate_ttft_ms=EASY, x_llmgate_tpot_ms=HOPELESS)
        assert await counted(served, "ttft") == (1, 0)
        assert await counted(served, "tpot") == (0, 1)


async def test_requests_without_targets_and_those_not_streamed_are_not_counted() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, router=POLICY) as served:
        await served.chat(HELLO)
        await served.chat(HELLO, x_llmgate_ttft_ms=EASY)
        assert await counted(served, "ttft") == (0, 0)


async def test_targets_are_inherited_from_the_model_and_then_from_all() -> None:
    models = [{"name": "m", "slo": {"tpot": 1e-9}}]
    async with FakeEngine(ANSWER) as engine, serving(engine, models=models, slo={"ttft": 60, "tpot": 60}) as served:
        await served.chat(STREAMED)
        assert await counted(served, "ttft") == (1, 0)
        assert await counted(served, "tpot") == (0, 1)
        await served.chat(STREAMED, x_llmgate_tpot_ms=EASY)
        assert await counted(served, "tpot") == (1, 1)


@pytest.mark.parametrize(
    ("script", "ttft", "tpot"),
    [
        ([answer(b"{}", 500)], (0, 1), (0, 1)),
        ([CLOSE], (0, 1), (0, 1)),
        ([STREAM_HEAD, chunk(b"data: 1\n\n"), CLOSE], (1, 0), (0, 1)),  # broken off after its beginning
        ([answer(b"{}", 400)], (0, 0), (0, 0)),  # the client's own mistake
    ],
)
async def test_what_fails_has_missed_what_it_had_not_met(
    script: Script, ttft: tuple[float, float], tpot: tuple[float, float]
) -> None:
    async with FakeEngine(script) as engine, serving(engine, retries={"max_attempts": 1}) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED, x_llmgate_ttft_ms=EASY, x_llmgate_tpot_ms=EASY))
            await client.answer()
        assert await counted(served, "ttft") == ttft
        assert await counted(served, "tpot") == tpot


@pytest.mark.parametrize(("target", "ttft"), [(EASY, (0, 0)), (HOPELESS, (0, 1))])
async def test_a_client_that_leaves_has_missed_a_target_only_if_it_had_waited_for_longer(
    target: str, ttft: tuple[float, float]
) -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with connect(served.gateway.data_port) as client:
            client.send(post(STREAMED, x_llmgate_ttft_ms=target))
            await engine.request()
        await served.settled()
        assert await counted(served, "ttft") == ttft


@pytest.mark.parametrize("name", ["x_llmgate_ttft_ms", "x_llmgate_tpot_ms"])
async def test_a_target_that_makes_no_sense_is_answered_400_and_no_engine_is_asked(name: str) -> None:
    async with FakeEngine(ANSWER) as engine, serving(engine) as served:
        refused = await served.chat(STREAMED, **{name: "soon"})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == name.replace("_", "-")
        assert "milliseconds" in refused.json()["error"]["message"]
        assert not served.gateway.scheduler.decisions


async def test_predictions_are_held_against_what_came() -> None:
    async with FakeEngine(ANSWER) as engine, serving(engine, router=POLICY) as served:
        await served.chat(STREAMED)
        for target in ("ttft", "tpot"):
            name = f'llmgate_predicted_{target}_error_ratio_count{{model="m",endpoint="a"}}'
            assert await served.metric(name) == 1, target
        (decision,) = (await served.admin.get("/api/decisions")).json()
        explanation = decision["explanation"]
        assert explanation["slo"] is None
        assert explanation["predicted"]["ttft"] > 0
        assert explanation["observed_ttft"] > 0
        assert explanation["observed_tpot"] > 0
        (option,) = explanation["options"]
        assert (option["endpoint"], option["why"], option["cached_source"]) == ("a", "chosen", "learnt")
        assert (option["requests"], option["prompt_tokens_ahead"]) == (0, 0)


async def explained(**sections: Any) -> dict[str, Any] | None:
    async with (
        FakeEngine([completion()]) as engine,
        FakeEngine() as other,
        serving(engine, other, router=POLICY, **sections) as served,
    ):
        leaving = served.gateway.pool.get("b")
        assert leaving is not None
        served.gateway.pool.set_draining(leaving, True)
        answered = await served.chat(HELLO, x_llmgate_explain="1", x_llmgate_ttft_ms="250")
        assert answered.status_code == 200
        said = answered.headers.get("x-llmgate-explain")
        return None if said is None else json.loads(said)


async def test_an_answer_tells_why_if_it_was_asked_and_may() -> None:
    told = await explained(server={"explain": True})
    assert told is not None
    assert told["slo"] == {"ttft": 0.25}
    assert [(each["name"], each["why"]) for each in told["endpoints"]] == [("a", "chosen"), ("b", "draining")]
    assert told["endpoints"][0].keys() >= {"cost", "ttft", "tpot", "cached_tokens", "cached_source", "requests"}


async def test_an_answer_does_not_tell_why_unless_the_configuration_allows_it() -> None:
    assert await explained() is None


async def test_an_answer_does_not_tell_why_unless_it_was_asked() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, server={"explain": True}) as served:
        assert "x-llmgate-explain" not in (await served.chat(HELLO)).headers


async def test_what_the_gateway_is_asked_does_not_reach_the_engine() -> None:
    async with (
        FakeEngine() as engine,
        serving(engine, server={"explain": True}) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO, x_llmgate_ttft_ms="100", x_llmgate_tpot_ms="100", x_llmgate_explain="1"))
        request = await engine.request()
        await request.send(completion())
        await client.answer()
    assert not [name for name, _ in request.headers if name.startswith(b"x-llmgate-")]
