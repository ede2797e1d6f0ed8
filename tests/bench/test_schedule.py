from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from llmgate.bench.schedule import Load
from llmgate.workloads import TraceRequest
from tests.bench.virtual_time import VirtualTime


@dataclass
class Server:
    """Answers each request after its own seconds, and keeps what it saw."""

    time: VirtualTime
    seconds: list[float]
    meant: dict[int, float] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    in_flight: int = 0
    most: int = 0

    async def send(self, index: int, at: float) -> None:
        assert index not in self.began, "sent twice"
        self.meant[index], self.began[index] = at, self.time()
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await self.time.wait(self.time() + self.seconds[index])
        self.in_flight -= 1
        self.ended[index] = self.time()


def setup(requests: list[TraceRequest], seconds: list[float]) -> tuple[VirtualTime, Server, Load]:
    time = VirtualTime()
    server = Server(time, seconds)
    return time, server, Load(requests, server.send, time, time.wait)


async def test_an_open_loop_sends_on_time_though_nothing_is_answered() -> None:
    time, server, load = setup([TraceRequest(0, 1, 1) for _ in range(4)], [100.0] * 4)
    await time.run(load.open_loop([0.0, 1.0, 1.0, 2.5]))
    assert list(server.began.values()) == list(server.meant.values()) == [0, 1, 1, 2.5]
    assert server.most == 4


async def test_a_closed_loop_keeps_as_many_in_flight_as_it_is_told() -> None:
    time, server, load = setup([TraceRequest(0, 1, 1) for _ in range(10)], [1.0] * 10)
    await time.run(load.closed_loop(4))
    assert server.most == 4
    assert time.now == 3


async def test_who_has_thought_goes_before_who_has_not_begun() -> None:
    requests = [TraceRequest(0, 1, 1), TraceRequest(0, 1, 1), TraceRequest(0, 1, 1, after=0), TraceRequest(0, 1, 1)]
    time, server, load = setup(requests, [1.0] * 4)
    await time.run(load.closed_loop(1))
    assert list(server.began) == [0, 1, 2, 3]


async def test_thinking_takes_no_place() -> None:
    requests = [TraceRequest(0, 1, 1), TraceRequest(0, 1, 1, after=0, think_s=10), TraceRequest(0, 1, 1)]
    time, server, load = setup(requests, [1.0] * 3)
    await time.run(load.closed_loop(1))
    assert server.began == {0: 0, 2: 1, 1: 11}


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[TraceRequest], list[float]]:
    requests: list[TraceRequest] = []
    for index in range(draw(st.integers(1, 12))):
        after = draw(st.none() | st.integers(0, index - 1)) if index else None
        think = draw(st.sampled_from([0.0, 0.5, 3.0])) if after is not None else 0.0
        requests.append(TraceRequest(float(index), 1, 1, after=after, think_s=think))
    seconds = draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=len(requests), max_size=len(requests)))
    return requests, seconds


@given(chains(), st.integers(1, 4))
async def test_a_closed_loop_sends_each_once_after_its_predecessor(
    chain: tuple[list[TraceRequest], list[float]], concurrency: int
) -> None:
    requests, seconds = chain
    time, server, load = setup(requests, seconds)
    await time.run(load.closed_loop(concurrency))
    assert server.ended.keys() == set(range(len(requests)))
    assert server.most <= concurrency
    for index, request in enumerate(requests):
        if request.after is not None:
            assert server.began[index] >= server.ended[request.after] + request.think_s


@given(chains())
async def test_an_open_loop_sends_followers_when_they_have_thought(
    chain: tuple[list[TraceRequest], list[float]],
) -> None:
    requests, seconds = chain
    time, server, load = setup(requests, seconds)
    await time.run(load.open_loop([request.at if request.after is None else None for request in requests]))
    assert server.ended.keys() == set(range(len(requests)))
    for index, request in enumerate(requests):
        due = request.at if request.after is None else server.ended[request.after] + request.think_s
        assert server.began[index] == server.meant[index] == due
