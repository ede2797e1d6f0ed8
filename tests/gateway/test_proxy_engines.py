"""What engines do when they are full, asleep or odd, each in its own way; see tests/data/engines/README.md."""

from __future__ import annotations

import json

import pytest

from llmgate.core.health import State
from llmgate.core.types import TerminationCause
from llmgate.testing.fake_upstream import Script, answer
from tests.support.fake_engine import DONE, JSON, FakeEngine, completion, stream, until
from tests.support.serving import STREAMED, serving
from tests.wire.engine_pages import recorded

EVENT = b'data: {"choices": [{"delta": {"content": "from the other"}}]}\n\n'
OTHER: Script = stream(EVENT, DONE)

FULL: dict[str, Script] = {
    "vLLM": [answer(recorded("reconstructed/vllm-queue-full.json"), 503, [JSON])],
    "SGLang": [answer(recorded("reconstructed/sglang-queue-full.json"), 503, [JSON])],
    "SGLang, in a stream": stream(recorded("reconstructed/sglang-queue-full.sse")),
    "TGI": [answer(recorded("reconstructed/tgi-overloaded.json"), 429, [JSON])],
    "Dynamo": [answer(b'{"message": "all workers are busy"}', 529, [JSON])],
    "llama.cpp, loading": [answer(b'{"error": {"code": 503, "message": "Loading model"}}', 503, [JSON])],
}


@pytest.mark.parametrize("refusal", FULL.values(), ids=list(FULL))
async def test_an_engine_that_is_full_is_passed_over_and_not_blamed(refusal: Script) -> None:
    async with (
        FakeEngine(refusal) as full,
        FakeEngine(OTHER) as other,
        serving(full, other, health={"strikes": 1}) as served,
    ):
        for _ in range(10):
            answered = await served.chat(STREAMED)
            assert answered.status_code == 200
            assert answered.content == EVENT + DONE
            assert answered.headers["x-llmgate-endpoint"] == "b"
        assert 1 <= len(full.asked) < 5, "for a while the other one is asked first"
        assert served.state("a") is State.UP


async def test_a_stream_that_is_a_refusal_is_a_503_when_nobody_else_can_be_asked() -> None:
    async with FakeEngine(FULL["SGLang, in a stream"]) as full, serving(full) as served:
        answered = await served.chat(STREAMED)
        assert answered.status_code == 503
        assert answered.headers["retry-after"] == "1"
        assert answered.json()["error"]["code"] == "engine_full"
        assert served.state("a") is State.UP


BROKEN: list[bytes] = [b'data: {"error": {"message": "the engine core died", "code": 500}}\n\n', DONE]


async def test_a_stream_that_is_a_failure_from_its_start_is_tried_elsewhere_and_counts_against_its_engine() -> None:
    async with (
        FakeEngine(stream(*BROKEN)) as broken,
        FakeEngine(OTHER) as other,
        serving(broken, other, health={"strikes": 1}) as served,
    ):
        for _ in range(4):
            assert (await served.chat(STREAMED)).content == EVENT + DONE
        assert len(broken.asked) == 1
        assert served.state("a") is State.EJECTED
        assert await served.metric('llmgate_retries_total{endpoint="a",reason="status_500"}') == 1


async def test_the_last_engines_failure_in_a_stream_is_told_in_its_own_words_and_counts_against_it() -> None:
    async with FakeEngine(stream(*BROKEN)) as engine, serving(engine, health={"strikes": 1}) as served:
        assert (await served.chat(STREAMED)).content == b"".join(BROKEN)
        await served.settled()
        assert served.gateway.scheduler.ledger.causes == {TerminationCause.UPSTREAM_ERROR: 1}


@pytest.mark.parametrize(
    "events",
    [
        [b'data: {"error": {"message": "context too long", "code": 400}}\n\n', DONE],
        [b'data: {"error": {"message": "boom", "code": "internal"}}\n\n'],
        [EVENT, recorded("reconstructed/sglang-queue-full.sse")],
    ],
    ids=["not full", "no status", "too late"],
)
async def test_other_errors_in_a_stream_pass_byte_for_byte(events: list[bytes]) -> None:
    async with FakeEngine(stream(*events)) as a, FakeEngine(stream(*events)) as b, serving(a, b) as served:
        answered = await served.chat(STREAMED)
        assert answered.status_code == 200
        assert answered.content == b"".join(events)
        assert len(a.asked) + len(b.asked) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_engine_that_is_healthy_but_silent_costs_a_deadline_each_until_it_is_ejected(streamed: bool) -> None:
    """As one that sleeps and does not say so: /health answers, a request hangs without a byte."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": streamed}
    async with (
        FakeEngine([]) as silent,
        FakeEngine(OTHER if streamed else [completion("from the other")]) as other,
        serving(silent, other, timeouts={"first_byte": 0.1}, health={"strikes": 3}) as served,
    ):
        for _ in range(12):
            answered = await served.chat(body)
            assert answered.status_code == 200
            assert b"from the other" in answered.content
        assert len(silent.asked) == 3
        assert served.state("a") is State.EJECTED
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        assert "did not come in time" in endpoint.health.reason


async def test_an_engine_with_odd_pages_is_used_all_the_same() -> None:
    """Metrics of 50 MB: the load stays unknown, requests are served."""

    class Odd(FakeEngine):
        def _page(self, path: bytes) -> bytes:
            return answer(b"# " + b"x" * 50_000_000) if path == b"/metrics" else super()._page(path)

    async with Odd([completion()]) as odd, serving(odd, scrape={"interval": 0.05}) as served:
        for _ in range(5):
            assert (await served.chat()).status_code == 200
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        assert endpoint.engine == "vllm", "its model list tells"
        assert endpoint.metrics is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            b"<!doctype html><title>It works!</title>",
            "it is not an LLM server: /v1/models answered with something that",
        ),
        (b"", "it is not an LLM server: /v1/models answered with an empty page"),
        (json.dumps({"data": [{"id": str(n)} for n in range(20_000)]}).encode(), "/v1/models lists 20000 models, more"),
        (b" " * 9_000_000, "/v1/models: /v1/models answered more than 8388608 bytes"),
        (b'{"data": 7}', "it is not an LLM server: /v1/models answered with something that"),
    ],
    ids=["html", "empty", "20,000 models", "9 MB", "wrong type"],
)
async def test_a_model_list_that_is_none_keeps_the_endpoint_out_with_the_reason(body: bytes, reason: str) -> None:
    class Odd(FakeEngine):
        def _page(self, path: bytes) -> bytes:
            return answer(body) if path == b"/v1/models" else super()._page(path)

    async with Odd([]) as odd, FakeEngine([completion()]) as good, serving(odd, good, wait=False) as served:
        await until(lambda: served.state("b") is State.UP and served.gateway.pool.get("a").health.reason != "")  # type: ignore[union-attr]
        for _ in range(4):
            answered = await served.chat()
            assert (answered.status_code, answered.headers["x-llmgate-endpoint"]) == (200, "b")
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        assert endpoint.health.state is State.STARTING
        assert endpoint.health.reason.startswith(reason), endpoint.health.reason
