"""At its limits the gateway says so at once, reads nothing, and stays well."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator

import pytest

from llmgate.gateway.protocol import SURPLUS_SECONDS
from llmgate.testing.fake_upstream import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.fake_engine import PATIENCE, FakeEngine, completion, until
from tests.support.raw_client import Head, RawClient, connect, post
from tests.support.serving import CHAT, HELLO, STREAMED, Served, serving

BOTH_LOOPS = True

UNREAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
"""A request whose body is still to come."""


def shed(head: Head, body: bytes) -> str:
    """The reason that an answer gives for its having been shed."""
    assert (head.status, head.headers["retry-after"]) == (503, "1")
    error = json.loads(body)["error"]
    assert error["type"] == "service_unavailable"
    reason: str = error["code"]
    return reason


async def rejected(served: Served, reason: str) -> float:
    return await served.metric(f'llmgate_rejected_total{{reason="{reason}"}}')


@contextlib.asynccontextmanager
async def answered_by(served: Served, sent: bytes) -> AsyncIterator[tuple[Head, bytes]]:
    async with connect(served.gateway.data_port) as client:
        client.send(sent)
        yield await client.answer()


async def test_one_request_above_the_limit_is_shed_before_its_body_is_read_and_others_go_on() -> None:
    async with FakeEngine() as engine, serving(engine, server={"max_in_flight": 2}) as served:
        running = [asyncio.create_task(served.chat()) for _ in range(2)]
        asked = [await engine.request() for _ in running]
        async with answered_by(served, UNREAD) as (head, body):
            assert shed(head, body) == "overloaded_requests"
            assert head.headers["connection"] == "close"
        assert (await served.client.get("/health")).status_code == 200
        assert await rejected(served, "overloaded_requests") == 1
        for request in asked:
            await request.send(completion())
        assert [(await each).status_code for each in running] == [200, 200]
        again = asyncio.create_task(served.chat())
        await (await engine.request()).send(completion())
        assert (await again).status_code == 200


async def test_200_at_once_on_a_limit_of_10_are_10_admitted_and_190_that_cost_nothing() -> None:
    async with FakeEngine() as engine, serving(engine, server={"max_in_flight": 10}) as served:
        running = [asyncio.create_task(served.chat()) for _ in range(200)]
        await until(lambda: sum(each.done() for each in running) == 190)
        await until(lambda: len(engine.asked) == 10)
        assert served.open_charges == 10
        for request in engine.asked:
            await request.send(completion())
        codes = [(await each).status_code for each in running]
        assert (codes.count(200), codes.count(503)) == (10, 190)


async def test_requests_that_were_let_in_and_complete_their_bodies_later_do_not_exceed_the_limit() -> None:
    whole = post(HELLO)
    async with (
        FakeEngine() as engine,
        serving(engine, server={"max_in_flight": 1}) as served,
        connect(served.gateway.data_port) as first,
        connect(served.gateway.data_port) as second,
    ):
        for client in (first, second):
            client.send(whole[:-5])
        await until(lambda: served.gateway.gate.buffered == 2 * (len(json.dumps(HELLO)) - 5))
        first.send(whole[-5:])
        asked = await engine.request()
        second.send(whole[-5:])
        assert shed(*await second.answer()) == "overloaded_requests"
        await asked.send(completion())
        assert (await first.answer())[0].status == 200


@pytest.mark.parametrize("target", [CHAT, f"{CHAT}?x=1"], ids=["direct", "by ASGI"])
async def test_bodies_beyond_the_limit_are_shed_by_what_they_announce(target: str) -> None:
    large = b"x" * 1500
    limits = {"body_limit": 2000, "max_buffered_bytes": 2000}
    async with FakeEngine() as engine, serving(engine, server=limits) as served:
        async with connect(served.gateway.data_port) as slow:
            slow.send(post(large, target)[:-1])
            await until(lambda: served.gateway.gate.buffered == 1499)
            async with answered_by(served, UNREAD.replace(CHAT.encode(), target.encode())) as (head, body):
                assert shed(head, body) == "overloaded_memory"
        await until(lambda: served.gateway.gate.buffered == 0)
        assert await served.metric("llmgate_buffered_request_bytes") == 0


@pytest.mark.parametrize("target", [CHAT, f"{CHAT}?x=1"], ids=["direct", "by ASGI"])
async def test_bodies_that_announce_nothing_are_shed_as_they_grow(target: str) -> None:
    limits = {"body_limit": 2000, "max_buffered_bytes": 2000}
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    async with FakeEngine() as engine, serving(engine, server=limits) as served:
        async with connect(served.gateway.data_port) as first, connect(served.gateway.data_port) as second:
            first.send(head + chunk(b"x" * 1500))
            await until(lambda: served.gateway.gate.buffered == 1500)
            second.send(head + chunk(b"x" * 1500))
            assert shed(*await second.answer()) == "overloaded_memory"
        await until(lambda: served.gateway.gate.buffered == 0)


async def test_a_body_is_on_the_books_until_its_request_has_ended() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        running = asyncio.create_task(served.chat(b'{"model":"m","messages":[]}'))
        request = await engine.request()
        assert served.gateway.gate.buffered == len(request.body)
        await request.send(completion())
        await running
        await until(lambda: served.gateway.gate.buffered == 0)


async def test_a_connection_too_many_gets_no_inference_but_its_health_check_and_is_closed() -> None:
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine([completion()]))
        served = await stack.enter_async_context(serving(engine, server={"max_connections": 3}))
        port = served.gateway.data_port
        while served.client_connections < 3:
            await stack.enter_async_context(connect(port))
            await until(lambda: served.client_connections > 0)
        async with connect(port) as surplus:
            surplus.send(post(HELLO))
            assert shed(*await surplus.answer()) == "overloaded_connections"
            assert await surplus.rest() == b""
        async with connect(port) as probe:
            probe.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await probe.answer())[0].status == 200
            async with asyncio.timeout(5 * SURPLUS_SECONDS):
                assert await probe.rest() == b"", "it is not kept"
        assert await rejected(served, "overloaded_connections") == 1


async def test_a_late_event_loop_sheds_and_health_still_answers() -> None:
    async with FakeEngine([completion()]) as engine, serving(engine, server={"max_loop_lag": 30}) as served:
        served.gateway._pulse.stop()
        served.gateway.gate.loop_was_late(31)
        served.gateway.gate.loop_was_late(31)
        async with answered_by(served, UNREAD) as (head, body):
            assert shed(head, body) == "overloaded_loop"
        assert (await served.client.get("/health")).status_code == 200
        assert await rejected(served, "overloaded_loop") == 1
        served.gateway.gate.loop_was_late(0)
        assert (await served.chat()).status_code == 200


async def test_the_event_loops_lag_is_a_metric() -> None:
    async with FakeEngine() as engine, serving(engine) as served:
        async with asyncio.timeout(5):
            while not await served.metric("llmgate_event_loop_lag_seconds_count"):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("gzip", 415), ("br", 415), ("identity, gzip", 415), ("Identity", 200), ("x-unheard-of", 415)],
)
async def test_an_encoded_body_is_refused_and_costs_no_engine(encoding: str, status: int) -> None:
    async with FakeEngine([completion()]) as engine, serving(engine) as served:
        answer = await served.chat(content_encoding=encoding)
        assert answer.status_code == status
        if status == 415:
            assert answer.json()["error"]["code"] == "unsupported_content_encoding"
            assert not engine.asked
        else:
            assert engine.asked[0].header("content-encoding") is None


# Readers that do not read ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def narrow(port: int) -> AsyncIterator[RawClient]:
    """A connection whose own side buffers next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        client.reset()
        await asyncio.sleep(0)


async def test_a_reader_that_has_stopped_holds_the_engine_back_and_is_cut_off_in_time() -> None:
    piece = chunk(b"data: " + b"x" * 16_000 + b"\n\n")
    async with FakeEngine() as engine, serving(engine, server={"send_timeout": 0.3}) as served:
        async with narrow(served.gateway.data_port) as client:
            client.send(post(STREAMED))
            request = await engine.request()
            client.pause()
            taken = 0

            async def flood() -> None:
                nonlocal taken
                await request.send(STREAM_HEAD)
                while not request.connection.closed.is_set():
                    await request.send(piece)
                    taken += len(piece)

            flooding = asyncio.create_task(flood())
            most = 0
            async with asyncio.timeout(PATIENCE):
                while served.open_charges:
                    most = max(most, served.unsent)
                    await asyncio.sleep(0.005)
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            await asyncio.wait_for(request.connection.closed.wait(), 5)
        assert 0 < most <= 512 * 1024
        assert await served.metric("llmgate_stalled_clients_total") == 1
        assert await served.metric('llmgate_requests_total{model="m",endpoint="a",code="499"}') == 1


async def test_a_reader_that_leaves_the_end_of_its_answer_is_cut_off_too() -> None:
    large = completion("x" * 4_000_000)
    async with (
        FakeEngine([large]) as engine,
        serving(engine, server={"send_timeout": 0.2}) as served,
        narrow(served.gateway.data_port) as client,
    ):
        client.send(post(HELLO, connection="close"))
        client.pause()
        await until(lambda: served.gateway.gate.stalled == 1)
        await until(lambda: served.open_charges == 0)


async def test_a_slow_reader_that_goes_on_gets_everything() -> None:
    text = "x" * 2_000_000
    async with FakeEngine([completion(text)]) as engine, serving(engine, server={"send_timeout": 5}) as served:
        async with narrow(served.gateway.data_port) as client:
            client.send(post(HELLO))
            _, body = await client.answer()
        assert json.loads(body)["choices"][0]["message"]["content"] == text
        assert served.gateway.gate.stalled == 0


# Fairness -------------------------------------------------------------------------------------------------------------


async def test_a_hot_stream_takes_its_turns_and_no_more() -> None:
    """In turns of the loop: what another engine sends has passed the gateway after a few of them, and no turn is spent
    on more of the hot stream than a few reads from its socket."""
    flood_piece = chunk(b"data: x\n\n") * 2000
    async with contextlib.AsyncExitStack() as stack:
        hot, cold = [await stack.enter_async_context(FakeEngine()) for _ in range(2)]
        served = await stack.enter_async_context(serving(hot, cold))
        clients = [await stack.enter_async_context(connect(served.gateway.data_port)) for _ in range(40)]
        for client in clients:
            client.send(post(STREAMED))
        await until(lambda: len(hot.asked) == len(cold.asked) == 20)
        for request in (*hot.asked, *cold.asked):
            await request.send(STREAM_HEAD, chunk(b"data: y\n\n"))
        engines = {client: (await client.head()).headers["x-llmgate-endpoint"] for client in clients}
        for client in clients:
            await client.chunk()
        loop = asyncio.get_running_loop()
        passed, turns, ended = [0], 0, False

        async def flood() -> None:
            while not ended:
                await hot.asked[0].send(flood_piece)
                await asyncio.sleep(0)

        def turn() -> None:
            nonlocal turns
            turns += 1
            passed.append(max(served.sent_by_connection))
            if not ended:
                loop.call_soon(turn)

        async def first_of(client: RawClient) -> int:
            while await client.chunk() != b"data: z\n\n":
                pass
            return turns

        async def to_the_end(client: RawClient) -> None:
            while await client.chunk():
                pass

        drinking = [asyncio.create_task(to_the_end(client)) for client in clients if engines[client] == "a"]
        flooding = asyncio.create_task(flood())
        waits = []
        turn()
        for _ in range(5):
            arriving = [asyncio.create_task(first_of(client)) for client in clients if engines[client] == "b"]
            before = turns
            for request in cold.asked:
                await request.send(chunk(b"data: z\n\n"))
            waits += [await each - before for each in arriving]
        ended = True
        await flooding
        for request in (*hot.asked, *cold.asked):
            await request.send(LAST_CHUNK)
        await asyncio.gather(*drinking)
        assert passed[-1] > 5 * len(flood_piece), "the stream was hot"
        assert max(waits) <= 100
        assert max(after - before for before, after in itertools.pairwise(passed)) <= 1024 * 1024
