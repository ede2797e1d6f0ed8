"""One public model on endpoints that call it otherwise and run it in other precisions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmgate.testing.fake_upstream import CLOSE, LAST_CHUNK, STREAM_HEAD, Script, answer, chunk
from tests.support.fake_engine import DONE, JSON, FakeEngine, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

VARIANTS = {"a": ("org/m-fp8", "fp8"), "b": ("m-bf16", "bf16")}
ALIASES = [{"name": "m", "aliases": ["gpt-4o"]}]


def whole(served: str) -> bytes:
    text = json.dumps({"model": served})
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    said = {"id": "x", "model": served, "choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    return json.dumps(said).encode()


def event(served: str) -> bytes:
    text = json.dumps({"model": served})
    return b"data: %b\n\n" % json.dumps({"model": served, "choices": [{"delta": {"content": text}}]}).encode()


@asynccontextmanager
async def variants(*, streamed: bool = False, **sections: Any) -> AsyncIterator[tuple[Served, dict[str, FakeEngine]]]:
    scripts = {
        name: stream(event(served), DONE) if streamed else [answer(whole(served), headers=[JSON])]
        for name, (served, _) in VARIANTS.items()
    }
    async with FakeEngine(scripts["a"]) as a, FakeEngine(scripts["b"]) as b:
        engines = {"a": a, "b": b}
        endpoints = [
            {"url": engines[name].url, "models": [{"name": "m", "served_as": served, "precision": precision}]}
            for name, (served, precision) in VARIANTS.items()
        ]
        async with serving(*endpoints, models=ALIASES, **sections) as served:
            yield served, engines


@pytest.mark.parametrize("name", ["m", "gpt-4o"])
async def test_each_engine_is_asked_for_the_name_it_knows_and_both_share_the_load(name: str) -> None:
    async with variants() as (served, engines):
        for _ in range(6):
            answered = await served.chat(HELLO | {"model": name})
            assert answered.json()["model"] == VARIANTS[answered.headers["x-llmgate-endpoint"]][0]  # as the engine says
    for endpoint, engine in engines.items():
        assert len(engine.asked) == 3
        for request in engine.asked:
            assert json.loads(request.body) == HELLO | {"model": VARIANTS[endpoint][0]}


async def test_they_are_one_model_to_clients_and_operators_see_the_difference() -> None:
    async with variants() as (served, _):
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed] == ["m", "gpt-4o"]
        shown = (await served.admin.get("/api/endpoints")).text
        for served_as, precision in VARIANTS.values():
            assert served_as in shown
            assert precision in shown
        refused = await served.chat(HELLO | {"model": "m-bf16"})
        assert refused.status_code == 404
        # estimates and metrics are those of the public model
        await served.chat()
        assert served.gateway.scheduler.knowledge("m").prompt.samples == 1


@pytest.mark.parametrize("name", ["m", "gpt-4o"])
async def test_answers_get_the_name_that_was_asked_for_if_configured(name: str) -> None:
    async with variants(server={"rewrite_answer_model": True}) as (served, _):
        for path in (CHAT, f"{CHAT}?via=asgi"):
            for _ in range(2):
                answered = await served.client.post(path, json=HELLO | {"model": name})
                served_as = VARIANTS[answered.headers["x-llmgate-endpoint"]][0]
                expected = json.loads(whole(served_as)) | {"model": name}
                assert answered.json() == expected
                assert json.loads(answered.json()["choices"][0]["message"]["content"]) == {"model": served_as}
        assert await served.metric('llmgate_tokens_total{model="m",endpoint="a",kind="prompt"}') == 14


async def test_so_do_the_chunks_of_a_stream() -> None:
    async with variants(streamed=True, server={"rewrite_answer_model": True}) as (served, _):
        for _ in range(2):
            answered = await served.chat(STREAMED)
            served_as = VARIANTS[answered.headers["x-llmgate-endpoint"]][0].encode()
            assert (
                answered.content
                == event(served_as.decode()).replace(b'"model": "%b"' % served_as, b'"model": "m"') + DONE
            )


async def test_where_the_names_are_the_same_nothing_is_held_back_or_changed() -> None:
    odd = b'{ "model":"m", "usage":{"prompt_tokens":1} } '
    async with (
        FakeEngine([answer(odd, headers=[JSON])]) as engine,
        serving(engine, server={"rewrite_answer_model": True}) as served,
    ):
        assert (await served.chat()).content == odd


async def test_a_request_without_a_model_gets_the_engines_own_name_for_the_sole_one() -> None:
    async with FakeEngine([answer(whole("S"), headers=[JSON])]) as engine:
        endpoint = {"url": engine.url, "models": [{"name": "m", "served_as": "S"}]}
        async with serving(endpoint) as served:
            for body in (b'{"messages": []}', b'{"messages": [], "model": null}', b"{}"):
                assert (await served.chat(body)).status_code == 200
    assert [json.loads(request.body)["model"] for request in engine.asked] == ["S"] * 3


async def test_an_answer_that_breaks_while_its_name_is_changed_is_asked_for_elsewhere() -> None:
    broken: Script = [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{", CLOSE]
    models = [{"name": "m", "served_as": "S"}]
    async with FakeEngine(broken) as a, FakeEngine([answer(whole("S"), headers=[JSON])]) as b:
        endpoints = ({"url": engine.url, "models": models, "engine": "vllm"} for engine in (a, b))
        async with serving(*endpoints, server={"rewrite_answer_model": True}) as served:
            for _ in range(3):
                assert (await served.chat()).json()["model"] == "m"
    assert a.asked


async def test_what_is_neither_json_nor_events_streams_on_unchanged() -> None:
    go_on = asyncio.Event()
    head = STREAM_HEAD.replace(b"text/event-stream", b"application/x-ndjson")
    async with (
        FakeEngine([head, chunk(b'{"model": "S"}\n'), go_on, chunk(b"end"), LAST_CHUNK]) as engine,
        serving(
            {"url": engine.url, "models": [{"name": "m", "served_as": "S"}], "engine": "vllm"},
            server={"rewrite_answer_model": True},
        ) as served,
        connect(served.gateway.data_port) as client,
    ):
        client.send(post(STREAMED))
        head_of_answer = await client.head()
        assert await client.chunk() == b'{"model": "S"}\n'
        go_on.set()
        assert await client.body(head_of_answer) == b"end"
