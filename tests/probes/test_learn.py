from __future__ import annotations

import pytest

from llmgate.core.errors import ConnectionLost
from llmgate.probes.learn import detect, list_models
from llmgate.probes.page import Ask, ProbeFailed, asker
from tests.core.make import endpoint
from tests.probes.fakes import REFUSED, Answer, FakeEngines, llamacpp, models, page, vllm
from tests.wire.engine_pages import recorded

LOST = ConnectionLost("lost")


def ask_of(engine: dict[str, Answer]) -> Ask:
    return asker(FakeEngines(a=engine).fetch, endpoint("a"), 5.0)


@pytest.mark.parametrize(
    ("engine", "pages"),
    [
        ("vllm", vllm()),
        ("llamacpp", llamacpp()),
        ("vllm", {**vllm(), "/metrics": None}),
        ("llamacpp", {**llamacpp(), "/metrics": page(recorded("llamacpp-2026.10/metrics-off.json"), 501)}),
        ("vllm", {**vllm(), "/metrics": LOST}),
        ("vllm", {"/metrics": page(recorded("vllm-0.32/metrics-idle.txt")), "/v1/models": models("m")}),
        ("tgi", {"/v1/models": models("m"), "/info": page(recorded("reconstructed/tgi-info.json"))}),
        ("sglang", {"/v1/models": models("m"), "/v1/loads": page(recorded("reconstructed/sglang-loads.json"))}),
        (
            "trtllm",
            {
                "/metrics": page(recorded("reconstructed/trtllm-metrics.json")),
                "/prometheus/metrics": page(recorded("reconstructed/trtllm.txt")),
            },
        ),
        ("llamacpp", {"/v1/models": page(models("m").body, server="llama.cpp")}),
        ("openai", {"/v1/models": models("vllm")}),
        ("openai", {"/metrics": page(b"python_info 1\n"), "/v1/models": page(b"<html>", server="nginx")}),
        ("openai", {path: page(recorded("vllm-0.32/metrics-idle.txt"), 500) for path in ("/metrics", "/v1/models")}),
    ],
)
async def test_the_first_clue_that_tells_decides_and_there_is_no_guessing(
    engine: str, pages: dict[str, Answer]
) -> None:
    assert await detect(ask_of(pages)) == engine


async def test_without_every_clue_an_engine_is_not_called_generic_for_good() -> None:
    assert await detect(ask_of({"/v1/models": models("m"), "/info": LOST})) is None
    assert await detect(ask_of({"/v1/models": page(models("m").body, server="llama.cpp"), "/info": LOST})) == "llamacpp"


async def test_an_engine_that_answers_nothing_is_not_called_generic() -> None:
    silent = dict.fromkeys(("/metrics", "/v1/models", "/info", "/v1/loads", "/prometheus/metrics"), REFUSED)
    with pytest.raises(ProbeFailed, match="connection refused"):
        await detect(ask_of({**silent}))


async def test_models_are_served_under_the_names_that_the_engine_lists() -> None:
    assert (await list_models(ask_of({"/v1/models": models("base", "lora")}))).ids == ("base", "lora")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "it is not an LLM server: /v1/models answered 404"),
        (
            page(b"<html>", content_type="text/html; charset=utf-8"),
            "it is not an LLM server: /v1/models answered with text/html that is not a list of models",
        ),
        (
            page(b'{"ok": true}'),
            "it is not an LLM server: /v1/models answered with something that is not a list of models",
        ),
        (models(), "/v1/models lists no models"),
        (page(b" \n"), "it is not an LLM server: /v1/models answered with an empty page"),
        (models(*map(str, range(10_001))), "/v1/models lists 10001 models, more than 10000"),
        (page(b'{"data": [{"id": 7}, 3, null]}'), "/v1/models lists no models"),
        (
            page(b'{"data": {"id": "m"}}', content_type="application/json"),
            "it is not an LLM server: /v1/models answered with application/json that is not a list of models",
        ),
        (page(status=401), "/v1/models answered 401; check its api_key"),
        (page(status=503), "/v1/models answered 503"),
        (REFUSED, "/v1/models: connection refused"),
    ],
)
async def test_no_models_is_a_failure_with_a_reason(answer: Answer, reason: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        await list_models(ask_of({"/v1/models": answer}))
    assert str(failed.value) == reason
