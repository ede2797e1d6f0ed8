"""An attempt that fails before the first byte of its answer goes to the next endpoint, within limits."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from llmgate.core.health import State
from llmgate.testing.fake_upstream import CLOSE, RESET, STREAM_HEAD, ReceivedRequest, Script, answer
from tests.support.fake_engine import JSON, FakeEngine, completion, gone, in_turn
from tests.support.serving import Served, serving

HEAD_ONLY = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
WORDS = json.dumps({"error": {"message": "the engine's own words", "type": "engine", "code": 7}}).encode()


def refusal(status: int) -> bytes:
    return answer(WORDS, status, [JSON, (b"retry-after", b"3")])


def asked(*engines: FakeEngine) -> list[int]:
    """How many requests each of them got, the fewest first: which endpoint is first is drawn by lot."""
    return sorted(len(engine.asked) for engine in engines)


def code(answered: httpx2.Response) -> str:
    error = answered.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


BEFORE_THE_FIRST_BYTE: dict[str, tuple[Script, str]] = {
    "reset before the head": ([RESET], "connection_lost"),
    "closed before the head": ([CLOSE], "connection_lost"),
    "closed within the head": ([b"HTTP/1.1 200 OK\r\nconte", CLOSE], "connection_lost"),
    "head, then closed": ([HEAD_ONLY, CLOSE], "truncated"),
    "head, then reset": ([HEAD_ONLY, RESET], "truncated"),
    "head of a stream, then closed": ([STREAM_HEAD, CLOSE], "truncated"),
    "not HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n"], "protocol_violation"),
    "silence": ([], "first_byte_timeout"),
    "head, then silence": ([HEAD_ONLY], "idle_timeout"),
    "500": ([refusal(500)], "status_500"),
    "502": ([refusal(502)], "status_502"),
    "503": ([refusal(503)], "status_503"),
    "504": ([refusal(504)], "status_504"),
    "429": ([refusal(429)], "status_429"),
}


@pytest.mark.parametrize(("failure", "reason"), BEFORE_THE_FIRST_BYTE.values(), ids=list(BEFORE_THE_FIRST_BYTE))
async def test_a_failure_before_the_first_byte_goes_to_the_next_endpoint(failure: Script, reason: str) -> None:
    behaviour = in_turn(failure, [completion("from the other")])
    async with (
        FakeEngine(behaviour) as a,
        FakeEngine(behaviour) as b,
        serving(a, b, timeouts={"first_byte": 0.2, "idle": 0.2}) as served,
    ):
        answered = await served.chat()
        assert answered.status_code == 200
        assert answered.json()["choices"][0]["message"]["content"] == "from the other"
        assert asked(a, b) == [1, 1]
        first = {"a": "b", "b": "a"}[answered.headers["x-llmgate-endpoint"]]
        assert await served.metric(f'llmgate_retries_total{{endpoint="{first}",reason="{reason}"}}') == 1


async def test_an_engine_that_refused_is_passed_over_as_long_as_it_asked_for() -> None:
    async with FakeEngine([refusal(429)]) as full, FakeEngine([completion()]) as other, serving(full, other) as served:
        for _ in range(30):
            assert (await served.chat()).status_code == 200
        assert len(full.asked) <= 1
        endpoint = served.gateway.pool.get("a")
        assert endpoint is not None
        assert endpoint.health.state is State.UP
        if full.asked:
            assert 2.0 < endpoint.busy_until - served.gateway.scheduler.decisions[-1].at <= 3.0


async def test_a_status_that_http_does_not_have_goes_to_the_next_endpoint() -> None:
    behaviour = in_turn([b"HTTP/1.1 600 What\r\ncontent-length: 2\r\n\r\nno"], [completion()])
    async with FakeEngine(behaviour) as a, FakeEngine(behaviour) as b, serving(a, b) as served:
        assert (await served.chat()).status_code == 200
        assert asked(a, b) == [1, 1]


async def test_the_second_attempt_sends_the_same_request() -> None:
    behaviour = in_turn([RESET], [completion()])
    async with FakeEngine(behaviour) as a, FakeEngine(behaviour) as b, serving(a, b) as served:
        await served.chat()
    (first,), (second,) = a.asked, b.asked
    assert first.body == second.body
    assert first.header("x-request-id") == second.header("x-request-id")


async def test_a_refused_connection_goes_to_the_next_endpoint_and_ejects_the_first() -> None:
    async with FakeEngine([completion()]) as alive, FakeEngine() as dead, serving(dead, alive) as served:
        await dead.stop()
        for _ in range(4):
            assert (await served.chat()).headers["x-llmgate-endpoint"] == "b"
        assert served.state("a") is State.EJECTED


async def test_no_endpoint_is_tried_twice() -> None:
    failing = [refusal(500)]
    async with (
        FakeEngine(failing) as a,
        FakeEngine(failing) as b,
        FakeEngine(failing) as c,
        serving(a, b, c, retries={"max_attempts": 10}) as served,
    ):
        assert (await served.chat()).status_code == 500
        assert asked(a, b, c) == [1, 1, 1]


async def test_attempts_are_limited() -> None:
    failing = [RESET]
    async with (
        FakeEngine(failing) as a,
        FakeEngine(failing) as b,
        FakeEngine(failing) as c,
        serving(a, b, c, retries={"max_attempts": 2}) as served,
    ):
        assert code(await served.chat()) == "connection_lost"
        assert asked(a, b, c) == [0, 1, 1]


async def test_when_every_endpoint_refuses_the_last_ones_own_answer_passes() -> None:
    async with FakeEngine([refusal(503)]) as a, FakeEngine([refusal(503)]) as b, serving(a, b) as served:
        answered = await served.chat()
    assert (answered.status_code, answered.content) == (503, WORDS)
    assert answered.headers["retry-after"] == "3"
    assert answered.headers["x-llmgate-endpoint"] in "ab"


async def test_when_every_connection_breaks_the_answer_is_a_502() -> None:
    async with FakeEngine([RESET]) as a, FakeEngine([RESET]) as b, serving(a, b) as served:
        answered = await served.chat(x_request_id="mine")
    assert answered.status_code == 502
    assert code(answered) == "connection_lost"
    assert answered.headers["x-request-id"] == "mine"


async def test_when_every_endpoint_is_silent_the_answer_is_a_504() -> None:
    async with (
        FakeEngine([]) as a,
        FakeEngine([]) as b,
        serving(a, b, timeouts={"first_byte": 0.1}) as served,
    ):
        answered = await served.chat()
        assert answered.status_code == 504
        assert code(answered) == "first_byte_timeout"
        for engine in (a, b):
            await gone(engine.asked[0])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 501])
async def test_other_answers_of_the_engine_are_never_retried(status: int) -> None:
    async with FakeEngine([refusal(status)]) as a, FakeEngine([refusal(status)]) as b, serving(a, b) as served:
        answered = await served.chat()
        assert (answered.status_code, answered.content) == (status, WORDS)
        assert asked(a, b) == [0, 1]


@pytest.mark.parametrize(("status", "state"), [(503, State.UP), (429, State.UP), (500, State.EJECTED)])
async def test_being_busy_does_not_count_against_health_and_failing_does(status: int, state: State) -> None:
    async with FakeEngine([refusal(status)]) as a, serving(a, health={"strikes": 3}) as served:
        for _ in range(3):
            assert (await served.chat()).status_code == status
        assert served.state("a") is state


async def test_requests_the_client_got_wrong_do_not_count_against_health() -> None:
    async with FakeEngine([refusal(400)]) as a, serving(a, health={"strikes": 1}) as served:
        for _ in range(3):
            await served.chat()
        assert served.state("a") is State.UP


async def test_an_ejected_last_endpoint_still_answers_with_its_own_error() -> None:
    async with FakeEngine([refusal(500)]) as a, serving(a, health={"strikes": 1}) as served:
        await served.chat()
        assert served.state("a") is State.EJECTED
        assert (await served.chat()).content == WORDS


async def test_an_ejection_is_told_at_once_and_the_endpoint_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeEngine([refusal(500)]) as a, serving(a, health={"strikes": 1, "interval": 3600}) as served:
        await served.chat()
        while "a is ejected: answered 500" not in caplog.text:
            await asyncio.sleep(0)


async def test_an_exhausted_retry_budget_lets_the_refusal_pass() -> None:
    async with (
        FakeEngine([refusal(503)]) as a,
        FakeEngine([refusal(503)]) as b,
        serving(a, b, retries={"ratio": 0, "floor": 0, "burst": 1}) as served,
    ):
        assert (await served.chat()).content == WORDS
        assert asked(a, b) == [1, 1]  # the one retry that was saved up
        assert (await served.chat()).content == WORDS
        assert sum(asked(a, b)) == 3


async def test_a_lost_connection_is_retried_without_the_budget() -> None:
    behaviour = in_turn([RESET], [completion()])
    async with (
        FakeEngine(behaviour) as a,
        FakeEngine(behaviour) as b,
        serving(a, b, retries={"ratio": 0, "floor": 0, "burst": 0}) as served,
    ):
        assert (await served.chat()).status_code == 200


async def test_a_kept_connection_that_the_engine_has_closed_is_replaced_once() -> None:
    async def close_the_first_connection_on_its_second_request(request: ReceivedRequest) -> None:
        if request.connection is first and len(request.connection.requests) > before:
            request.connection.reset()
        else:
            await request.send(completion())

    async with FakeEngine(close_the_first_connection_on_its_second_request) as a, serving(a) as served:
        first, before = None, 0
        await served.chat()
        first, before = a.asked[0].connection, len(a.asked[0].connection.requests)
        assert (await served.chat()).status_code == 200
        assert await served.metric('llmgate_requests_total{model="m",endpoint="a",code="200"}') == 2
    assert [request.connection is first for request in a.asked] == [True, True, False]


async def test_every_failed_attempt_is_settled_before_the_next_one() -> None:
    seen: list[int] = []

    async def look(request: ReceivedRequest) -> None:
        seen.append(served.open_charges)
        await request.send(refusal(503))

    async with FakeEngine(look) as a, FakeEngine(look) as b, FakeEngine(look) as c, serving(a, b, c) as served:
        await served.chat()
    assert seen == [1, 1, 1]


async def test_an_endpoint_that_never_answers_does_not_hold_up_others() -> None:
    async def slow_on_a(request: ReceivedRequest) -> None:
        if request.connection in a.connections:
            await asyncio.Event().wait()
        await request.send(completion())

    async def ask(served: Served) -> httpx2.Response:
        return await served.chat()

    async with (
        FakeEngine(slow_on_a) as a,
        FakeEngine(slow_on_a) as b,
        serving(a, b, timeouts={"first_byte": 0.3}) as served,
    ):
        answers = await asyncio.gather(*(ask(served) for _ in range(10)))
    assert [answered.status_code for answered in answers] == [200] * 10
