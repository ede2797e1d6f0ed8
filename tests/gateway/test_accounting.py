"""Whatever happens to a request, in the end nothing is booked for it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from llmgate.core.protocols import Candidates, Router
from llmgate.core.types import Endpoint, InferenceRequest, TerminationCause, Usage
from llmgate.routing import registry
from llmgate.testing.fake_upstream import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    ReceivedRequest,
    Script,
    answer,
    chunk,
)
from tests.support.fake_engine import DONE, FakeEngine, completion, sse, stream
from tests.support.raw_client import RawClient, connect, post
from tests.support.serving import HELLO, STREAMED, serving

BOTH_LOOPS = True

REQUESTS = 300
AT_ONCE = 20

ENDINGS: list[Script] = [
    [completion()],
    stream(*sse({"n": 1}, {"n": 2}, {"usage": {"prompt_tokens": 5, "completion_tokens": 2}})),
    [RESET],
    [CLOSE],
    [answer(b"{}", 500)],
    [answer(b"{}", 503)],
    [answer(b"{}", 429)],
    [answer(b"{}", 400)],
    [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", CLOSE],
    [STREAM_HEAD, CLOSE],
    [STREAM_HEAD, chunk(b"data: 1\n\n"), RESET],
    [STREAM_HEAD, chunk(b"data: 1\n\n"), b"nonsense\r\n"],
    [STREAM_HEAD, chunk(b"data: 1\n\n")],  # and then nothing
    [b"nonsense\r\n"],
    [],
]


@pytest.mark.parametrize("seed", range(2))
async def test_clients_and_engines_that_leave_at_random_moments_leave_no_charge(seed: int) -> None:
    random = Random(seed)

    async def fail_at_random(request: ReceivedRequest) -> None:
        for step in random.choice(ENDINGS):
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            await request.run([step])

    async def one_client(port: int) -> None:
        async with connect(port) as client:
            try:
                await asyncio.wait_for(talk(client), random.choice([0.0005, 0.002, 0.01, 0.3]))
            except (TimeoutError, EOFError, ConnectionResetError):
                random.choice([client.leave, client.reset, client.half_close])()

    async def talk(client: RawClient) -> None:
        for _ in range(random.randrange(1, 4)):
            request = post(random.choice([HELLO, STREAMED]))
            cut = random.choice([len(request), len(request), random.randrange(len(request))])
            client.send(request[:cut])
            await asyncio.sleep(0)
            client.send(request[cut:])
            await client.answer()

    async with (
        FakeEngine(fail_at_random) as a,
        FakeEngine(fail_at_random) as b,
        FakeEngine(fail_at_random) as c,
        serving(
            *(a, b, {"url": c.url, "engine": "llamacpp"}),  # c's answers are put together
            timeouts={"first_byte": 0.2, "idle": 0.2, "drain": 2},
            health={"strikes": 1000, "eject": 0.05},
        ) as served,
    ):
        places = asyncio.Semaphore(AT_ONCE)

        async def in_its_place() -> None:
            async with places:
                await one_client(served.gateway.data_port)

        await asyncio.gather(*(in_its_place() for _ in range(REQUESTS)))
        await served.settled()
        causes = served.gateway.scheduler.ledger.causes
    assert causes[TerminationCause.GATEWAY_ERROR] == 0
    assert causes[TerminationCause.COMPLETED] > 0
    assert causes[TerminationCause.CLIENT_GONE] > 0
    assert causes[TerminationCause.UPSTREAM_ERROR] > 0


class Broken(Router):
    """Fails as a third party's router may."""

    def __init__(self) -> None:
        self.failing = False

    def score(self, request: InferenceRequest, candidates: Candidates) -> list[float]:
        if self.failing:
            raise KeyError("secret")
        return [0.0] * len(candidates.endpoints)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    router = Broken()
    monkeypatch.setitem(registry.BUILT_IN, "broken", lambda: router)
    return router


async def test_a_policy_that_fails_is_a_500_and_leaves_no_charge(
    broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, router={"policy": "broken"}) as served:
        broken.failing = True
        answered = await served.chat(x_request_id="mine")
        assert answered.status_code == 500
        assert answered.json()["error"]["type"] == "api_error"
        assert answered.headers["x-request-id"] == "mine"
        assert "secret" not in answered.text
        assert served.open_charges == 0
        assert not engine.asked
        broken.failing = False
        assert (await served.chat()).status_code == 200
    assert "mine" in caplog.text


class BrokenAtTheEnd(Broken):
    def finished(
        self, request: InferenceRequest, endpoint: Endpoint, usage: Usage | None, seconds: float, now: float
    ) -> None:
        raise KeyError("secret")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_policy_that_fails_when_it_hears_of_the_end_spoils_no_answer(
    streamed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "broken", BrokenAtTheEnd)
    script = stream(b"data: 1\n\n", DONE) if streamed else [completion()]
    async with (
        FakeEngine(script) as engine,
        serving(engine, router={"policy": "broken"}) as served,
        connect(served.gateway.data_port) as client,
    ):
        for _ in range(2):  # on one connection: nothing may come between the two answers
            client.send(post(STREAMED if streamed else HELLO))
            head, body = await client.answer()
            assert head.status == 200
            assert body == b"data: 1\n\n" + DONE if streamed else b"hello" in body
        await served.settled()
    assert "KeyError" in caplog.text


async def test_what_a_composed_policy_chose_says_profile() -> None:
    parts = {"policy": "profile", "filters": ["kv-room"], "scorers": ["prefix", "load", "latency"]}
    async with FakeEngine([completion()]) as engine, serving(engine, router=parts) as served:
        for _ in range(2):
            answered = await served.chat()
            assert answered.headers["x-llmgate-policy"] == "profile"
        assert (await served.admin.get("/api/endpoints")).json()[0]["effective_weight"] == 1.0


async def test_load_shrinks_while_the_answer_comes() -> None:
    async with FakeEngine() as engine, serving(engine) as served, connect(served.gateway.data_port) as client:
        client.send(post(STREAMED | {"max_tokens": 100}))
        request = await engine.request()
        (endpoint,) = served.gateway.pool
        load = endpoint.load
        assert load.requests == 1
        assert load.prefill_tokens > 0
        booked = load.decode_tokens
        assert 90 < booked <= 100
        await request.send(STREAM_HEAD, chunk(b"data: 1\n\n" * 10))
        await client.head()
        await client.chunk()
        assert load.prefill_tokens == 0
        assert load.decode_tokens == booked - 10
        await request.send(LAST_CHUNK)
        assert await client.chunk() == b""
        await served.settled()
        assert (load.requests, load.tokens) == (0, 0)
