"""HTTP/1.1 as clients speak it, on a transport that records what the gateway writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from llmgate.core.errors import LlmgateError
from llmgate.gateway.asgi import Receive, Scope, Send, respond_json
from llmgate.gateway.client import Client, respond_error
from llmgate.gateway.gate import Gate, Limits
from llmgate.gateway.protocol import GatewayProtocol
from tests.support.raw_client import post

LIMIT = 1024
BOTH_LOOPS = True


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.closed = True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading


class App:
    """Answers /direct by `serve`, everything else by plain ASGI."""

    body_limit = LIMIT

    def __init__(self, serve: Callable[[Client], Awaitable[None]]) -> None:
        self.served: list[bytes] = []
        self.gate = Gate(Limits())
        self.direct = {b"/direct": self._direct}
        self._serve = serve

    async def refuse(self, client: Client, error: LlmgateError) -> None:
        await respond_error(client, error, [])

    async def _direct(self, client: Client) -> None:
        self.served.append(client.body)
        await self._serve(client)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.served.append(body)
        await respond_json(send, 200, b'"plain"')


class Connection:
    """One client's connection to a GatewayProtocol."""

    def __init__(self, serve: Callable[[Client], Awaitable[None]]) -> None:
        self.app = App(serve)
        config = uvicorn.Config(self.app, log_config=None, lifespan="off", interface="asgi3")
        config.load()
        config.loaded_app = self.app
        self.state = ServerState()
        self.transport = Transport()
        self.protocol = GatewayProtocol(config, self.state, {})
        self.protocol.connection_made(self.transport)

    async def sends(self, data: bytes) -> None:
        """The client's bytes arrive; whatever they set off has happened when this returns."""
        self.protocol.data_received(data)
        while self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=5)

    @property
    def received(self) -> bytes:
        return b"".join(self.transport.writes)

    def end(self) -> None:
        self.protocol.connection_lost(None)


async def ok(client: Client) -> None:
    client.respond(200, [(b"content-length", b"2")], b"ok", False)


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


async def test_head_and_first_bytes_leave_in_one_write() -> None:
    connection = Connection(ok)
    await connection.sends(post({}, "/direct"))
    (write,) = connection.transport.writes
    assert write.startswith(b"HTTP/1.1 200 OK\r\n")
    assert write.endswith(b"\r\n\r\nok")
    connection.end()


async def test_a_body_without_a_length_is_chunked_and_each_piece_leaves_at_once() -> None:
    async def stream(client: Client) -> None:
        client.respond(200, [], b"one", True)
        client.write(b"three", True)
        client.write(b"", True)
        client.write(b"", False)

    connection = Connection(stream)
    await connection.sends(post({}, "/direct"))
    first, *others = connection.transport.writes
    assert b"transfer-encoding: chunked\r\n" in first
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert others == [b"5\r\nthree\r\n", b"0\r\n\r\n"]
    connection.end()


@pytest.mark.parametrize("body", [b"x", b"xxx"], ids=["too short", "too long"])
async def test_a_body_that_is_not_as_long_as_announced_breaks_the_connection(body: bytes) -> None:
    async def wrong(client: Client) -> None:
        with pytest.raises(RuntimeError, match="Content-Length"):
            client.respond(200, [(b"content-length", b"2")], body, False)

    connection = Connection(wrong)
    await connection.sends(post({}, "/direct"))
    assert connection.transport.closed


async def test_an_answer_that_is_left_unfinished_breaks_the_connection() -> None:
    async def half(client: Client) -> None:
        client.respond(200, [], b"half", True)

    connection = Connection(half)
    await connection.sends(post({}, "/direct"))
    assert connection.transport.closed
    assert not connection.received.endswith(b"0\r\n\r\n")


async def test_requests_follow_each_other_on_one_connection() -> None:
    connection = Connection(ok)
    for body in (b"1", b"2", b"3"):
        await connection.sends(post(body, "/direct"))
        await connection.sends(b"GET /plain HTTP/1.1\r\nhost: g\r\n\r\n")
    assert connection.app.served == [b"1", b"", b"2", b"", b"3", b""]
    assert not connection.transport.closed
    connection.end()


async def test_connection_close_is_obeyed() -> None:
    connection = Connection(ok)
    await connection.sends(post({}, "/direct", connection="close"))
    assert b"connection: close\r\n" in connection.received
    assert connection.transport.closed


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo(client: Client) -> None:
        await asyncio.sleep(0)
        client.respond(200, [(b"content-length", b"1")], client.body, False)

    connection = Connection(echo)
    plain = b"GET /plain HTTP/1.1\r\nhost: g\r\n\r\n"
    await connection.sends(post(b"1", "/direct") + post(b"2", "/direct") + plain + post(b"3", "/direct"))
    assert connection.app.served == [b"1", b"2", b"", b"3"]
    assert statuses(connection.received) == [200] * 4
    connection.end()


async def test_a_body_may_come_in_pieces_or_in_chunks() -> None:
    connection = Connection(ok)
    request = post(b"hello", "/direct")
    await connection.sends(request[:-3])
    await connection.sends(request[-3:])
    head = b"POST /direct HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n"
    await connection.sends(head + b"2\r\nhe\r\n")
    await connection.sends(b"3;ext=1\r\nllo\r\n0\r\ntrailer: x\r\n\r\n")
    assert connection.app.served == [b"hello", b"hello"]
    connection.end()


async def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    connection = Connection(ok)
    head, _, body = post(b"hello", "/direct", expect="100-continue").partition(b"\r\n\r\n")
    connection.protocol.data_received(head + b"\r\n\r\n")
    while not connection.transport.writes:
        await asyncio.sleep(0)
    assert connection.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.sends(body)
    assert connection.app.served == [b"hello"]
    connection.end()


async def test_http_1_0_gets_its_answer_and_the_end_of_the_connection() -> None:
    connection = Connection(ok)
    await connection.sends(post(b"hello", "/direct").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert connection.app.served == [b"hello"]
    assert connection.transport.closed


async def test_a_refused_body_is_not_taken_for_the_next_request() -> None:
    connection = Connection(ok)
    body = post({}, "/direct").ljust(LIMIT + 1)  # looks like a request
    head, _, body = post(body, "/direct").partition(b"\r\n\r\n")
    await connection.sends(head + b"\r\n\r\n")
    assert statuses(connection.received) == [413]
    assert b"connection: close\r\n" in connection.received
    assert not connection.transport.closed  # the client may still be sending, and has not seen the answer
    await connection.sends(body)
    assert connection.transport.closed
    assert connection.app.served == []


async def test_a_refused_request_that_has_all_come_ends_the_connection_with_its_answer() -> None:
    connection = Connection(ok)
    await connection.sends(post(b"x" * (LIMIT + 1), "/direct"))
    assert statuses(connection.received) == [413]
    assert connection.transport.closed


CHUNKED = b"POST /direct HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + b"%x\r\n%b\r\n" % (LIMIT, b"x" * LIMIT) + b"1\r\nx\r\n",
        CHUNKED + b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1)) + b"0\r\n\r\n",
    ],
    ids=["several chunks", "one chunk"],
)
async def test_a_chunked_body_over_the_limit_is_refused(sent: bytes) -> None:
    connection = Connection(ok)
    await connection.sends(sent)
    assert statuses(connection.received) == [413]
    assert connection.app.served == []


async def test_a_body_in_tiny_chunks_takes_time_in_proportion_to_its_length() -> None:
    connection = Connection(ok)
    connection.app.body_limit = 10**6
    loop = asyncio.get_running_loop()
    started = loop.time()
    await connection.sends(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert connection.app.served == [b"x" * 20_000]
    assert loop.time() - started < 1  # in proportion to its square it would be several
    connection.end()


MALFORMED = {
    "length and chunked": b"POST /direct HTTP/1.1\r\nhost: g\r\n"
    b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "two lengths": b"POST /direct HTTP/1.1\r\nhost: g\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "signed length": b"POST /direct HTTP/1.1\r\nhost: g\r\ncontent-length: +3\r\n\r\nabc",
    "negative length": b"POST /direct HTTP/1.1\r\nhost: g\r\ncontent-length: -3\r\n\r\nabc",
    "huge length": b"POST /direct HTTP/1.1\r\nhost: g\r\ncontent-length: 99999999999999999999\r\n\r\nabc",
    "chunk size": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "unknown coding": b"POST /direct HTTP/1.1\r\nhost: g\r\ntransfer-encoding: xchunked\r\n\r\n5\r\nhello\r\n",
    "space before the colon": b"POST /direct HTTP/1.1\r\nhost : g\r\ncontent-length: 0\r\n\r\n",
    "NUL in a value": b"POST /direct HTTP/1.1\r\nhost: g\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=list(MALFORMED))
async def test_a_malformed_request_is_a_400_and_the_end_of_the_connection(request_bytes: bytes) -> None:
    connection = Connection(ok)
    await connection.sends(request_bytes)
    assert statuses(connection.received) == [400]
    assert connection.transport.closed
    assert connection.app.served == []


async def serve_for_ever(client: Client) -> None:
    """Ends by being cancelled only, and then tries to send something."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        assert client.gone
        client.respond(200, [], b"dropped", False)


async def test_the_task_of_a_client_that_has_gone_is_cancelled_at_once() -> None:
    connection = Connection(serve_for_ever)
    connection.protocol.data_received(post({}, "/direct"))
    await asyncio.sleep(0)
    connection.end()
    (task,) = connection.state.tasks
    assert task.cancelling()
    await asyncio.wait([task], timeout=5)
    assert connection.state.tasks == set()
    assert connection.received == b""


async def test_of_pipelined_requests_the_one_that_is_served_is_cancelled_when_the_client_has_gone() -> None:
    connection = Connection(serve_for_ever)
    connection.protocol.data_received(post(b"1", "/direct") + post(b"2", "/direct"))
    await asyncio.sleep(0)
    connection.end()
    while connection.state.tasks:
        await asyncio.wait(connection.state.tasks, timeout=5)
    assert connection.app.served == [b"1"]


async def test_the_client_says_when_it_takes_no_more_and_when_it_does_again() -> None:
    said: list[object] = []

    async def stream(client: Client) -> None:
        said.append(client.respond(200, [], b"1", True))
        connection.protocol.pause_writing()
        said.append(client.write(b"2", True))
        await client.drained()
        said.append("drained")
        said.append(client.write(b"", False))

    connection = Connection(stream)
    connection.protocol.data_received(post({}, "/direct"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert said == [True, False]
    connection.protocol.resume_writing()
    while connection.state.tasks:
        await asyncio.wait(connection.state.tasks, timeout=5)
    assert said == [True, False, "drained", True]
    connection.end()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    go_on = asyncio.Event()

    async def wait(client: Client) -> None:
        await go_on.wait()
        await ok(client)

    connection = Connection(wait)
    connection.protocol.timeout_keep_alive = 75
    go_on.set()
    await connection.sends(post({}, "/direct"))
    go_on.clear()
    connection.protocol.data_received(post({}, "/direct"))
    await asyncio.sleep(0)
    connection.protocol.timeout_keep_alive_handler()  # fires in the middle of the second request
    assert not connection.transport.closed
    go_on.set()
    while connection.state.tasks:
        await asyncio.wait(connection.state.tasks, timeout=5)
    connection.protocol.timeout_keep_alive = 0
    connection.protocol.timeout_keep_alive_handler()
    assert connection.transport.closed
    connection.end()


async def test_a_client_that_asks_without_reading_waits() -> None:
    connection = Connection(ok)
    connection.protocol.pause_writing()
    for number in b"123":
        connection.protocol.data_received(post(b"%c" % number, "/direct"))
        for _ in range(5):
            await asyncio.sleep(0)
    assert connection.app.served == [b"1"], "its answer waits, and the others wait for it"
    assert not connection.transport.reading
    connection.protocol.resume_writing()
    while connection.state.tasks:
        await asyncio.wait(connection.state.tasks, timeout=5)
    assert connection.app.served == [b"1", b"2", b"3"]
    connection.end()


async def test_nothing_of_a_body_stays_with_an_idle_connection() -> None:
    connection = Connection(ok)
    await connection.sends(post(b"x" * 1000, "/direct"))
    client: Any = connection.protocol.cycle
    assert client.body == b""
    assert client.pieces == []
    connection.end()


async def test_trailers_are_no_headers() -> None:
    async def headers(client: Client) -> None:
        seen.append([name for name, _ in client.headers])
        await ok(client)

    seen: list[list[bytes]] = []
    connection = Connection(headers)
    await connection.sends(
        b"POST /direct HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\nx-evil: 1\r\nauthorization: Bearer x\r\n\r\n"
    )
    assert seen == [[b"host", b"transfer-encoding"]]
    connection.end()


async def test_one_timer_serves_all_requests_of_a_connection_and_ends_with_it() -> None:
    loop = asyncio.get_running_loop()
    connection = Connection(ok)
    timer = connection.protocol.timeout_keep_alive_task
    timers: list[asyncio.TimerHandle] = []
    later = loop.call_later

    def call_later(*args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(later(*args, **options))
        return timers[-1]

    class Loop:
        def __getattr__(self, name: str) -> Any:
            return call_later if name == "call_later" else getattr(loop, name)

    connection.protocol.loop = Loop()  # type: ignore[assignment]
    for _ in range(5):
        await connection.sends(post(b"1", "/direct") + post(b"2", "/plain"))
        await connection.sends(post(b"3", "/direct"))
    connection.end()
    assert timer is not None
    assert timer.cancelled()
    assert timers == []


@pytest.mark.parametrize("end", ["resume_writing", "connection_lost"])
async def test_a_reader_that_takes_again_or_leaves_is_not_cut_off(end: str) -> None:
    connection = Connection(ok)
    connection.app.gate.limits = Limits(send_timeout=60)
    connection.protocol.pause_writing()
    connection.protocol.pause_writing()
    stall = connection.protocol._stall
    assert stall is not None
    if end == "resume_writing":
        connection.protocol.resume_writing()
    connection.end()
    assert stall.cancelled()
    assert connection.app.gate.stalled == 0


async def test_a_reader_that_takes_nothing_in_time_is_cut_off_and_counted() -> None:
    connection = Connection(ok)
    connection.app.gate.limits = Limits(send_timeout=60)
    connection.protocol.pause_writing()
    assert connection.protocol._stall is not None
    connection.protocol._cut_stalled()  # what the timer does
    assert connection.transport.closed
    assert connection.app.gate.stalled == 1
    connection.end()


async def test_without_a_send_timeout_nobody_is_waited_for_with_a_timer() -> None:
    connection = Connection(ok)
    connection.protocol.pause_writing()
    assert connection.protocol._stall is None
    connection.end()
