"""What clients may get wrong in a request, and what they are told."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmgate.core.scheduler import Decision, Scheduler
from llmgate.core.types import Endpoint, InferenceRequest, Kind
from llmgate.gateway.intake import Intake
from llmgate.routing.registry import create
from llmgate.tokens import load_tokenizer
from llmgate.wire.kinds import KINDS
from llmgate.wire.token_keys import block_keys, token_seed
from tests.core import make
from tests.support.fake_engine import FakeEngine, completion, sse, stream
from tests.support.raw_client import connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

LIMIT = 4096


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine([completion()]) as engine:
        yield engine


@pytest.fixture
async def served(engine: FakeEngine) -> AsyncIterator[Served]:
    """Its engine must not be asked."""
    async with serving(engine, server={"body_limit": LIMIT}, models=[{"name": "m", "aliases": ["gpt-4o"]}]) as served:
        yield served
        assert not engine.asked


def error(answered: httpx2.Response) -> dict[str, Any]:
    """OpenAI's error envelope, checked."""
    assert answered.headers["content-type"] == "application/json"
    body = answered.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "m"',
        b'{"model": "m"} x',
        b"\xff\xfe",
        b'{"model": "m", "a": nul}',
        b"{'model': 'm'}",
    ],
)
async def test_malformed_json_is_a_400(served: Served, body: bytes) -> None:
    answered = await served.chat(body, x_request_id="mine")
    assert answered.status_code == 400
    assert error(answered)["type"] == "invalid_request_error"
    assert "JSON" in error(answered)["message"]
    assert answered.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("body", [b"[]", b'"m"', b"1", b"null", b'[{"model": "m"}]'])
async def test_json_that_is_no_object_is_a_400(served: Served, body: bytes) -> None:
    answered = await served.chat(body)
    assert answered.status_code == 400
    assert "must be a JSON object" in error(answered)["message"]


async def test_json_nested_too_deeply_is_a_400(served: Served) -> None:
    answered = await served.chat(b'{"model": "m", "messages": ' + b"[" * 2000 + b"]" * 2000 + b"}")
    assert answered.status_code == 400


@pytest.mark.parametrize("model", [b"1", b"[]", b'{"a": 1}', b"true"])
async def test_a_model_that_is_no_string_is_a_400_that_names_it(served: Served, model: bytes) -> None:
    answered = await served.chat(b'{"model": %b}' % model)
    assert answered.status_code == 400
    assert error(answered)["param"] == "model"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "model": "m"}',
        b'{"model": "m", "messages": [], "model": "other"}',
        b'{"model": "m", "mod\\u0065l": "other"}',
        b'{"model": null, "model": "m"}',
        b'{"model": "m", "messages": [{"content": "%b"}], "model": "other"}' % (b"x" * 3000),
    ],
)
async def test_a_model_given_twice_is_a_400(served: Served, body: bytes) -> None:
    answered = await served.chat(body)
    assert answered.status_code == 400
    assert error(answered)["code"] == "duplicate_key"
    assert error(answered)["param"] == "model"


@pytest.mark.parametrize("name", ["other", "M", "", "m ", "\U0001f389", "../m", "x" * 3000])
async def test_an_unknown_model_is_a_404(served: Served, name: str) -> None:
    answered = await served.chat(HELLO | {"model": name})
    assert answered.status_code == 404
    assert error(answered)["code"] == "model_not_found"
    assert error(answered)["param"] == "model"
    assert len(answered.content) < 1000


async def test_a_name_that_a_client_invents_makes_no_metric(served: Served) -> None:
    await served.chat(HELLO | {"model": "invented"})
    assert "invented" not in (await served.client.get("/metrics")).text
    assert await served.metric('llmgate_rejected_total{reason="model_not_found"}') == 1


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}?api-version=1"], ids=["direct", "through ASGI"])
async def test_a_body_over_the_limit_is_a_413_before_it_is_read(served: Served, path: str) -> None:
    async with connect(served.gateway.data_port) as client:
        client.send(post(HELLO | {"padding": "x" * LIMIT}, path).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        head, body = await client.answer()
    assert head.status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
    assert await served.metric('llmgate_rejected_total{reason="body_too_large"}') == 1


async def test_a_413_ends_the_connection_once_the_client_has_sent_everything(served: Served) -> None:
    async with connect(served.gateway.data_port) as client:
        client.send(post(HELLO | {"padding": "x" * LIMIT}))
        head, _ = await client.answer()
        assert head.headers["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}?api-version=1"], ids=["direct", "through ASGI"])
async def test_a_chunked_body_over_the_limit_is_a_413(served: Served, path: str) -> None:
    async with connect(served.gateway.data_port) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        client.send(head + b"800\r\n%b\r\n" % (b"x" * 0x800) * 3)
        assert (await client.head()).status == 413


async def test_a_413_carries_the_request_id(served: Served) -> None:
    answered = await served.chat(HELLO | {"padding": "x" * LIMIT}, x_request_id="mine")
    assert answered.status_code == 413
    assert answered.headers["x-request-id"] == "mine"


async def test_a_body_of_just_the_limit_is_taken(engine: FakeEngine) -> None:
    body = json.dumps(HELLO).encode().ljust(LIMIT)
    async with serving(engine, server={"body_limit": LIMIT}) as served:
        assert (await served.chat(body)).status_code == 200


async def test_without_a_model_the_sole_one_is_assumed(engine: FakeEngine) -> None:
    async with serving(engine) as served:
        for body in (b'{"messages": []}', b'{"messages": [], "model": null}'):
            assert (await served.chat(body)).status_code == 200


async def test_without_a_model_and_with_several_it_is_a_400() -> None:
    async with FakeEngine(models=["m", "n"]) as engine, serving(engine) as served:
        answered = await served.chat(b'{"messages": []}')
        assert answered.status_code == 400
        assert error(answered)["param"] == "model"
        assert not engine.asked


@pytest.mark.parametrize("value", ['"yes"', "-1", "1e300", "[]", "null", "12345678901234567890123"])
async def test_fields_that_only_matter_to_the_engine_are_left_to_the_engine(engine: FakeEngine, value: str) -> None:
    body = b'{"model": "m", "max_tokens": %b, "n": %b, "stream": 0, "messages": 7}' % ((value.encode(),) * 2)
    async with serving(engine) as served:
        assert (await served.chat(body)).status_code == 200
    assert engine.asked[0].body == body


async def test_a_prompt_is_counted_exactly_where_there_is_a_tokenizer(engine: FakeEngine) -> None:
    async with serving(engine, models=[{"name": "m", "tokenizer": "embedded"}]) as served:
        for body in (HELLO, HELLO | {"messages": [{"role": "user", "content": "Hello " * 1000}]}):
            await served.chat(body)
        long, short = served.gateway.scheduler.decisions.pop(), served.gateway.scheduler.decisions.pop()
    assert 0 < short.prompt_tokens < 50
    assert 1000 <= long.prompt_tokens < 1050


async def test_the_variables_of_a_chat_template_count(engine: FakeEngine, tmp_path: Path) -> None:
    shutil.copy(str(files("llmgate.tokens") / "embedded/tokenizer.json"), tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ 'think ' * (times or 0) }}{{ messages[0].content }}")
    async with serving(engine, models=[{"name": "m", "tokenizer": str(tmp_path)}]) as served:
        await served.chat(HELLO)
        await served.chat(HELLO | {"chat_template_kwargs": {"times": 50}})
        long, short = served.gateway.scheduler.decisions.pop(), served.gateway.scheduler.decisions.pop()
    assert 48 <= long.prompt_tokens - short.prompt_tokens <= 52


async def test_who_holds_a_prompt_is_looked_up_anew_when_counting_took_time(engine: FakeEngine) -> None:
    async with serving(engine, models=[{"name": "m", "tokenizer": "embedded"}]) as served:
        scheduler = served.gateway.scheduler
        looked_up: list[object] = []
        schedule = scheduler.schedule

        def watched(request: InferenceRequest, now: float, tried: Collection[Endpoint] = ()) -> Decision:
            looked_up.append(request.holders)
            return schedule(request, now, tried)

        scheduler.schedule = watched  # type: ignore[method-assign]
        await served.chat(HELLO | {"messages": [{"role": "user", "content": "Hello " * 1000}]})
    assert looked_up == [None]


async def test_a_prompt_that_the_tokenizer_cannot_do_is_estimated_which_is_told_once(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(engine, models=[{"name": "m", "tokenizer": "embedded"}]) as served:
        for messages in ("secret", [{"no": "role"}], [1, 2], {"a": 1}):
            assert (await served.chat(HELLO | {"messages": messages})).status_code == 200
        assert await served.metric('llmgate_uncountable_prompts_total{model="m"}') == 4
        assert await served.metric('llmgate_tokenizer_info{library="fastokens",model="m"}') == 1
    told = [record.message for record in caplog.records if "are estimated" in record.message]
    assert len(told) == 1
    assert "secret" not in told[0]


async def test_a_template_that_raises_is_told_and_its_prompts_are_estimated(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(str(files("llmgate.tokens") / "embedded/tokenizer.json"), tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception(messages[0].content) }}")
    async with serving(engine, models=[{"name": "m", "tokenizer": str(tmp_path)}]) as served:
        assert (await served.chat(HELLO)).status_code == 200
        assert served.gateway.scheduler.decisions[-1].prompt_tokens > 0
        assert await served.metric('llmgate_uncountable_prompts_total{model="m"}') == 1
    assert "a prompt of m cannot be counted (the chat template refuses these messages" in caplog.text


async def test_a_tokenizer_that_cannot_be_used_is_told_and_requests_are_served(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    async with serving(engine, models=[{"name": "m", "tokenizer": str(tmp_path)}]) as served:
        assert (await served.chat(HELLO)).status_code == 200
        assert await served.metric('llmgate_tokenizer_info{library="none",model="m"}') == 1
    assert "the prompts of m are estimated, since its tokenizer cannot be used" in caplog.text


class Threads(ThreadPoolExecutor):
    """Counts what is done off the event loop."""

    done = 0

    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        self.done += 1
        return super().submit(work, *args, **named)


def intake_of(blocks: int | None = None) -> Intake:
    scheduler = Scheduler(make.pool(1), create("round-robin"))
    scheduler.block_tokens = lambda model: blocks  # type: ignore[method-assign]
    return Intake(scheduler, {"m": load_tokenizer("embedded")})


async def counted(intake: Intake, kind: Kind, **fields: Any) -> InferenceRequest:
    body = json.dumps({"model": "m", **fields}).encode()
    request, parsed = intake.understand(KINDS[kind], [], body, "r", 0.0)
    await intake.count(request, parsed)
    return request


async def test_only_what_takes_long_leaves_the_event_loop() -> None:
    intake, threads = intake_of(), Threads()
    asyncio.get_running_loop().set_default_executor(threads)
    intake.tokenizers["m"].seconds_per_byte = 50e-9  # 4,000 bytes in 200 µs
    turn = {"role": "user", "content": "Hello " * 300}
    await counted(intake, Kind.CHAT, messages=[turn])
    assert threads.done == 0
    await counted(intake, Kind.CHAT, messages=[turn] * 6)
    assert threads.done == 1
    await counted(intake, Kind.CHAT, messages=[turn] * 7)  # of which six are known
    assert threads.done == 1
    await counted(intake, Kind.CHAT, messages=[turn] * 60)  # reading it alone takes too long
    assert threads.done == 2


async def test_keys_of_the_blocks_of_tokens_come_with_the_count_where_engines_tell_of_theirs() -> None:
    intake, counter = intake_of(16), load_tokenizer("embedded")
    messages = [{"role": "user", "content": "Hello " * 100}]
    request = await counted(intake, Kind.CHAT, messages=messages)
    ids = counter.chat_ids(messages)
    assert request.block_tokens == 16
    assert list(request.blocks) == block_keys(ids, 16, token_seed(""))
    assert request.prompt_tokens == len(ids)
    for prompt, of in (("Hello " * 50, counter.text_ids("Hello " * 50)), ([*range(40)], range(40))):
        request = await counted(intake, Kind.COMPLETION, prompt=prompt)
        assert list(request.blocks) == block_keys(of, 16, token_seed(""))
    assert (await counted(intake, Kind.COMPLETION, prompt=["Hello " * 50] * 2)).blocks == ()


async def test_without_engines_that_tell_of_their_blocks_there_are_no_keys() -> None:
    request = await counted(intake_of(None), Kind.CHAT, messages=[{"role": "user", "content": "Hello " * 100}])
    assert (request.blocks, request.block_tokens) == ((), 0)


async def test_a_cache_salt_makes_other_keys() -> None:
    intake, messages = intake_of(16), [{"role": "user", "content": "Hello " * 100}]
    plain = await counted(intake, Kind.CHAT, messages=messages)
    salted = await counted(intake, Kind.CHAT, messages=messages, cache_salt="é")
    assert list(salted.blocks) == block_keys(load_tokenizer("embedded").chat_ids(messages), 16, token_seed("", "é"))
    assert not set(plain.blocks) & set(salted.blocks)


async def test_whose_request_it_is_comes_from_its_user_or_its_key() -> None:
    intake, spec = intake_of(), KINDS[Kind.CHAT]

    def tenant(body: bytes, *headers: tuple[bytes, bytes]) -> object:
        return intake.understand(spec, list(headers), body, "r", 0.0)[0].tenant

    keyed, named = b'{"model": "m"}', b'{"model": "m", "user": "u"}'
    assert tenant(keyed) is None
    assert tenant(keyed, (b"authorization", b"a")) == tenant(keyed, (b"authorization", b"a"))
    assert tenant(keyed, (b"authorization", b"a")) != tenant(keyed, (b"authorization", b"b"))
    assert tenant(named, (b"authorization", b"a")) == tenant(named, (b"authorization", b"b"))


async def test_estimates_learn_from_what_engines_report() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5000, "completion_tokens": 7}}
    async with FakeEngine(stream(*sse(usage))) as engine, serving(engine) as served:
        body = STREAMED | {"messages": [{"role": "user", "content": "Hello " * 1000}]}
        for _ in range(8):
            await served.chat(body)
        decisions = list(served.gateway.scheduler.decisions)
    assert abs(decisions[-1].prompt_tokens - 5000) < abs(decisions[0].prompt_tokens - 5000) / 2
