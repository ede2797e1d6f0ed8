"""Requests of every kind: they reach the engine as they are, cost what they should, and fail in their own way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import InferenceRequest, Kind
from llmgate.routing import registry
from llmgate.testing.fake_upstream import CLOSE, RESET, STREAM_HEAD, answer, chunk
from llmgate.wire.kinds import ROUTES
from tests.support.fake_engine import JSON, FakeEngine, completion, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import Served, serving

OK = answer(b'{"fine": true}', headers=[JSON])
MESSAGE = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
BOUNDARY = b"----7e3"
FORM = b"multipart/form-data; boundary=----7e3"


def form(model: bytes = b"m", *, stream: bool = False, audio: bytes = bytes(range(256)) * 50) -> bytes:
    parts = [(b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav', audio)]
    if model:
        parts.append((b'name="model"', model))
    if stream:
        parts.append((b'name="stream"', b"true"))
    body = b"".join(b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (BOUNDARY, *each) for each in parts)
    return body + b"--" + BOUNDARY + b"--\r\n"


async def ask(served: Served, path: str, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await served.client.post(path, content=content, headers={k.replace("_", "-"): headers[k] for k in headers})


@pytest.mark.parametrize("path", list(ROUTES))
async def test_a_request_reaches_the_engine_at_its_path_byte_for_byte(path: str) -> None:
    body = b'{ "model":"m", "input" : "x", "odd":1.0e-7 }'
    async with FakeEngine([OK]) as engine, serving(engine) as served:
        answered = await ask(served, path, body)
        assert (answered.status_code, answered.json()) == (200, {"fine": True})
        assert answered.headers["x-llmgate-endpoint"] == "a"
    assert (engine.asked[0].path, engine.asked[0].body) == (path.encode(), body)


@pytest.mark.parametrize("path", list(ROUTES))
async def test_a_request_of_any_kind_is_tried_elsewhere_before_it_is_answered(path: str) -> None:
    async with FakeEngine([RESET]) as a, FakeEngine([OK]) as b, serving(a, b) as served:
        for _ in range(2):
            assert (await ask(served, path, {"model": "m"})).status_code == 200
        assert a.asked
        retries = await served.metric('llmgate_retries_total{endpoint="a",reason="connection_lost"}')
        assert retries == len(a.asked)


@pytest.mark.parametrize("path", list(ROUTES))
async def test_without_a_model_the_sole_one_is_taken_and_of_several_none(path: str) -> None:
    async with FakeEngine([OK]) as a, FakeEngine([OK], models=["n"]) as b:
        async with serving(a) as served:
            assert (await ask(served, path, {})).status_code == 200
        async with serving(a, b) as served:
            refused = await ask(served, path, {})
            assert refused.status_code == 400
            assert "model" in refused.json()["error"]["message"]


async def test_what_does_not_run_the_model_books_next_to_nothing_and_teaches_nothing() -> None:
    async with FakeEngine([OK]) as engine, serving(engine, router={"policy": "prefix-affinity"}) as served:
        for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens"):
            await ask(served, path, {"prompt": "word " * 5000, "messages": [{"content": "word " * 5000}]})
        for decision in served.gateway.scheduler.decisions:
            assert decision.prompt_tokens == 1
        assert served.gateway.scheduler.knowledge("m").prompt.samples == 0


async def test_prompts_of_every_kind_are_estimated_and_their_usage_counts() -> None:
    usage = {"usage": {"input_tokens": 1000, "output_tokens": 40, "cache_read_input_tokens": 200}}
    async with FakeEngine([answer(json.dumps(usage).encode(), headers=[JSON])]) as engine, serving(engine) as served:
        await ask(served, "/v1/messages", MESSAGE | {"system": "word " * 1000})
        assert 800 < served.gateway.scheduler.decisions[-1].prompt_tokens < 1500
        for kind, tokens in (("prompt", 1200), ("cached", 200), ("completion", 40)):
            assert await served.metric(f'llmgate_tokens_total{{model="m",endpoint="a",kind="{kind}"}}') == tokens


async def test_a_streamed_message_tells_its_usage_at_both_ends() -> None:
    events = [
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n',
    ]
    async with FakeEngine(stream(*events)) as engine, serving(engine) as served:
        answered = await ask(served, "/v1/messages", MESSAGE | {"stream": True})
        assert answered.content == b"".join(events)
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="prompt"}') == 7
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="completion"}') == 9
    assert engine.asked[0].body == json.dumps(MESSAGE | {"stream": True}).encode()


# Errors in the kind's own way ----------------------------------------------------------------------------------------


async def test_errors_of_the_gateway_come_in_anthropics_envelope() -> None:
    async with FakeEngine([CLOSE]) as engine, serving(engine, server={"body_limit": 2048}) as served:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for body, status, kind in (
                (b"{", 400, "invalid_request_error"),
                (json.dumps(MESSAGE | {"model": "other"}).encode(), 404, "not_found_error"),
                (json.dumps(MESSAGE | {"x": "x" * 3000}).encode(), 413, "request_too_large"),
                (json.dumps(MESSAGE).encode(), 502, "api_error"),
            ):
                answered = await ask(served, path, body)
                assert answered.status_code == status
                assert answered.json().keys() == {"type", "error"}
                assert answered.json()["type"] == "error"
                assert answered.json()["error"]["type"] == kind
            wrong = await served.client.get(path)
            assert (wrong.status_code, wrong.json()["type"]) == (405, "error")


@pytest.mark.parametrize(
    ("path", "begins"),
    [("/v1/messages", b'event: error\ndata: {"type":"error",'), ("/v1/responses", b"event: error\ndata: {")],
)
async def test_a_broken_stream_ends_with_an_error_event_of_its_kind(path: str, begins: bytes) -> None:
    event = b'event: message_start\ndata: {"type":"message_start"}\n\n'
    async with FakeEngine([STREAM_HEAD, chunk(event), CLOSE]) as engine, serving(engine) as served:
        answered = await ask(served, path, MESSAGE | {"stream": True})
    assert answered.content.startswith(event + begins)
    assert answered.content.endswith(b"}\n\n")


async def test_anthropics_key_ends_at_the_gateway_like_any_other() -> None:
    async with FakeEngine([OK]) as engine, serving({"url": engine.url, "api_key": "engine-key"}) as served:
        await ask(served, "/v1/messages", MESSAGE, x_api_key="client-key", anthropic_version="2023-06-01")
    (request,) = engine.asked
    assert request.header("x-api-key") is None
    assert request.header("authorization") == b"Bearer engine-key"
    assert request.header("anthropic-version") == b"2023-06-01"


# Paths that the gateway does not know --------------------------------------------------------------------------------


async def test_any_other_path_of_v1_is_routed_by_its_model() -> None:
    async with FakeEngine([OK], models=["m"]) as a, FakeEngine([OK], models=["n"]) as b, serving(a, b) as served:
        for path in ("/v1/images/generations?size=1", "/v1/pooling", "/v1/audio/speech"):
            answered = await ask(served, path, {"model": "n", "input": "x"})
            assert answered.headers["x-llmgate-endpoint"] == "b"
            assert b.asked[-1].path == path.encode()
        uploaded = await ask(served, "/v1/images/edits", form(b"n"), content_type=FORM.decode())
        assert uploaded.status_code == 200
    assert not a.asked


@pytest.mark.parametrize("body", [b'{"input": "x"}', b"{", b"", b"[]", b"\xff"])
async def test_without_a_model_any_other_path_is_a_404(body: bytes) -> None:
    async with FakeEngine([OK]) as engine, serving(engine) as served:
        answered = await ask(served, "/v1/images/generations", body)
        assert answered.status_code == 404
        assert answered.json()["error"]["code"] == "unknown_url"
        assert (await ask(served, "/v1/pooling", b'{"model":"m","model":"n"}')).status_code == 400
        assert (await ask(served, "/v1/pooling", b'{"model":7}')).status_code == 400
        assert (await ask(served, "/v1/pooling", {"model": "other"})).json()["error"]["code"] == "model_not_found"
    assert not engine.asked


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/x/../load_lora_adapter",
        "/v1//load_lora_adapter",
        "/v1/load%5Flora_adapter",
        "/v1/load_lora_adapter/",
        "/v1/.hidden",
        "/v1/",
        "/sleep",
        "/v2/embed",
    ],
)
async def test_operators_paths_of_engines_and_odd_ones_are_out_of_reach(path: str) -> None:
    async with FakeEngine([OK]) as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(post({"model": "m", "lora_name": "x"}, path))
        assert (await client.head()).status == 404
    assert not engine.asked


# Uploads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_an_upload_goes_to_the_engine_of_its_model_byte_for_byte(path: str) -> None:
    body = form(b"n")
    async with FakeEngine([OK], models=["m"]) as a, FakeEngine([OK], models=["n"]) as b, serving(a, b) as served:
        answered = await ask(served, path, body, content_type=FORM.decode())
        assert answered.headers["x-llmgate-endpoint"] == "b"
        decision = served.gateway.scheduler.decisions[-1]
    assert b.asked[0].body == body
    assert b.asked[0].header("content-type") == FORM
    assert decision.prompt_tokens == 1 + len(body) // 320


async def test_an_uploads_model_gets_the_name_that_the_engine_knows() -> None:
    async with FakeEngine([OK]) as engine:
        models = [{"name": "whisper", "served_as": "openai/whisper-large-v3"}]
        async with serving({"url": engine.url, "models": models}) as served:
            await ask(served, "/v1/audio/transcriptions", form(b"whisper"), content_type=FORM.decode())
    assert engine.asked[0].body == form(b"openai/whisper-large-v3")


async def test_a_bad_upload_is_a_400_that_says_why() -> None:
    async with FakeEngine([OK]) as engine, serving(engine) as served:
        for body, message in ((b"RIFF", "multipart form"), (form()[:-10], "breaks off"), (form() + b"x", "")):
            answered = await ask(served, "/v1/audio/transcriptions", body, content_type=FORM.decode())
            assert answered.status_code == (400 if message else 200)
            if message:
                assert message in answered.json()["error"]["message"]


async def test_a_streamed_transcription_passes_and_its_events_count() -> None:
    events = sse({"type": "transcript.text.delta", "delta": "Hi"}, {"type": "transcript.text.done"})
    async with FakeEngine(stream(*events)) as engine, serving(engine) as served:
        body = form(stream=True)
        answered = await ask(served, "/v1/audio/transcriptions", body, content_type=FORM.decode())
        assert answered.content == b"".join(events)
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="completion"}') == 2
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="prompt"}') == 0
    assert engine.asked[0].body == body


# TGI -----------------------------------------------------------------------------------------------------------------


async def test_tgis_own_requests_need_no_model_and_are_counted() -> None:
    events = [
        b'data:{"index":1,"token":{"text":"a"},"generated_text":null,"details":null}\n\n',
        b'data:{"index":2,"token":{"text":"b"},"generated_text":"ab","details":{"generated_tokens":2,"seed":null}}\n\n',
    ]
    async with FakeEngine(stream(*events)) as engine, serving({"url": engine.url, "engine": "tgi"}) as served:
        body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 2}}
        answered = await ask(served, "/generate_stream", body)
        assert answered.content == b"".join(events)
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="completion"}') == 2
    assert engine.asked[0].body == json.dumps(body).encode()


# Engines that lack a path --------------------------------------------------------------------------------------------


async def test_a_kind_goes_to_engines_whose_make_has_a_path_for_it() -> None:
    async with FakeEngine([OK]) as a, FakeEngine([OK]) as b:
        engines = {"url": a.url, "engine": "llamacpp"}, {"url": b.url, "engine": "vllm"}
        async with serving(*engines) as served:
            for _ in range(4):
                scored = await ask(served, "/v1/score", {"model": "m", "text_1": "a", "text_2": "b"})
                assert scored.headers["x-llmgate-endpoint"] == "b"
            asked = {(await ask(served, "/v1/rerank", {"model": "m"})).headers["x-llmgate-endpoint"] for _ in range(4)}
            assert asked == {"a", "b"}


async def test_when_no_make_has_the_path_the_engine_says_so_itself_and_only_one_is_asked() -> None:
    missing = answer(b'{"error":{"message":"File Not Found"}}', 404, [JSON])
    async with FakeEngine([missing]) as a, FakeEngine([missing]) as b:
        engines = {"url": a.url, "engine": "llamacpp"}, {"url": b.url, "engine": "llamacpp"}
        async with serving(*engines) as served:
            answered = await ask(served, "/v1/score", {"model": "m"})
            assert (answered.status_code, answered.json()) == (404, {"error": {"message": "File Not Found"}})
            assert len(a.asked) + len(b.asked) == 1


async def test_a_failure_is_not_tried_again_on_an_engine_that_lacks_the_path() -> None:
    async with FakeEngine([answer(b"{}", 500)]) as a, FakeEngine([OK]) as b:
        engines = {"url": a.url, "engine": "vllm"}, {"url": b.url, "engine": "llamacpp"}
        async with serving(*engines) as served:
            assert (await ask(served, "/v1/score", {"model": "m"})).status_code == 500
    assert not b.asked


# Models --------------------------------------------------------------------------------------------------------------


class WithAdapter(FakeEngine):
    def _page(self, path: bytes) -> bytes:
        if path != b"/v1/models":
            return super()._page(path)
        cards = [{"id": "m", "owned_by": "vllm"}, {"id": "sql", "owned_by": "vllm", "parent": "m", "root": "/x"}]
        return answer(json.dumps({"object": "list", "data": cards}).encode(), headers=[JSON])


async def test_models_aliases_and_adapters_have_cards_of_their_own() -> None:
    async with (
        WithAdapter([completion()]) as engine,
        serving(engine, models=[{"name": "m", "aliases": ["gpt-4o"]}]) as served,
    ):
        listed = {card["id"]: card for card in (await served.client.get("/v1/models")).json()["data"]}
        assert set(listed) == {"m", "sql", "gpt-4o"}
        assert (listed["sql"]["parent"], listed["gpt-4o"]["root"]) == ("m", "m")
        for name, card in listed.items():
            assert (await served.client.get(f"/v1/models/{name}")).json() == card
        unknown = await served.client.get("/v1/models/other")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert (await served.client.delete("/v1/models/m")).status_code == 405
        assert (await served.chat({"model": "sql", "messages": []})).status_code == 200
    assert json.loads(engine.asked[0].body)["model"] == "sql"


async def test_a_models_name_may_hold_a_slash() -> None:
    async with FakeEngine(models=["org/m"]) as engine, serving(engine) as served:
        for path in ("/v1/models/org/m", "/v1/models/org%2Fm"):
            assert (await served.client.get(path)).json()["id"] == "org/m"


# Sessions ------------------------------------------------------------------------------------------------------------


class Remembering(Router):
    """Takes note of the sessions that it is told."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def score(self, request: InferenceRequest, candidates: Candidates) -> list[float]:
        self.seen.append(request.session)
        return [0.0] * len(candidates.endpoints)


async def test_the_session_is_known_only_to_a_router_that_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Remembering()
    monkeypatch.setitem(registry.BUILT_IN, "remembering", lambda: router)
    async with FakeEngine([completion()]) as engine, serving(engine, router={"policy": "remembering"}) as served:
        body = {"messages": [], "user": "u"}
        await served.chat(body)
        router.needs_session = True
        await served.chat(body)
        await served.chat(body, x_session_id="s")
        await ask(served, "/tokenize", body)
    assert router.seen == [None, "u", "s", "u"]
    assert all(request.header("x-session-id") is None for request in engine.asked)


def test_what_generates_is_known() -> None:
    generating = {Kind.CHAT, Kind.COMPLETION, Kind.RESPONSES, Kind.MESSAGES, Kind.GENERATE}
    assert {kind for kind in Kind if kind.generates} == generating


async def test_prompts_are_counted_exactly_where_there_is_a_tokenizer(caplog: pytest.LogCaptureFixture) -> None:
    said = {"messages": [{"role": "user", "content": "Hello there"}]}
    async with FakeEngine([OK]) as engine, serving(engine, models=[{"name": "m", "tokenizer": "embedded"}]) as served:
        await served.chat(said)
        await ask(served, "/v1/messages", said)
        await ask(served, "/v1/responses", {"input": "Hello there"})
        await ask(served, "/generate", {"inputs": "Hello there"})
        chat, message, response, generation = (each.prompt_tokens for each in served.gateway.scheduler.decisions)
        assert chat == message == response > generation == 2
        for path in ("/tokenize", "/v1/rerank", "/v1/score", "/v1/messages/count_tokens"):
            await ask(served, path, said)
        assert "tokenizer" not in caplog.text  # there was nothing to count
        for odd in ({"messages": 7}, {"messages": [{"role": "user"}]}, {"system": {"x": 1}, "messages": []}, {}):
            assert (await ask(served, "/v1/messages", odd)).status_code == 200
            assert (await ask(served, "/v1/responses", {"input": odd})).status_code == 200
