"""What a line of the access log costs the event loop, in µs: python -m benchmarks.access_log

Medians of 7 rounds of 50,000 requests; the writing to /dev/null goes on meanwhile in its own thread, and its share of
the interpreter is part of the figure.
"""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter

from llmgate.core.pool import EndpointPool
from llmgate.core.types import EndpointSpec, InferenceRequest, Kind, TerminationCause, Usage
from llmgate.gateway.access import entry_of
from llmgate.gateway.exchange import Exchange
from llmgate.telemetry.access_log import AccessLog
from llmgate.wire.headers import Header, RequestHeaders

ROUNDS, REQUESTS = 7, 50_000


class DoneClient:
    """A client that has had its answer."""

    target, body, gone, sent, peer = b"/v1/chat/completions", b"x" * 1024, False, 900, "127.0.0.1"

    def __init__(self, headers: list[Header]) -> None:
        self.headers = headers

    def respond(self, status: int, headers: list[Header], body: bytes, more: bool) -> bool:
        return True

    def write(self, body: bytes, more: bool) -> bool:
        return True

    async def drained(self) -> None:
        pass


POLICY = ("prefix-affinity", (b"x-llmgate-policy", b"prefix-affinity"))


def exchange(*, session: bool) -> Exchange:
    headers: list[Header] = [(b"host", b"gateway"), (b"content-type", b"application/json"), (b"accept", b"*/*")]
    if session:
        headers.append((b"x-session-id", b"3f0c6a1e-8d3c-4a57-9c1f-0b7f4f1f8a11"))
    made = Exchange(
        DoneClient(headers), RequestHeaders([], [], None), b"0123456789abcdef0123456789abcdef", 1000.0, POLICY
    )
    made.request = InferenceRequest(made.id, Kind.CHAT, "llama-3.1-8b", True, 312, 128, 256)
    (made.endpoint,) = EndpointPool([EndpointSpec("node-a:8000", "http://node-a:8000")])
    made.tried.append(made.endpoint)
    made.status, made.dispatched, made.first_byte = 200, 1000.00012, 1000.25
    made.usage = Usage(310, 97, 256)
    made.cause = TerminationCause.COMPLETED
    return made


async def measure(*, session: bool) -> float:
    log = AccessLog("/dev/null")
    ended = exchange(session=session)
    times = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(REQUESTS):
            log.write(entry_of(ended, log, 1002.5))
        times.append((perf_counter() - began) / REQUESTS * 1e6)
        await asyncio.sleep(0.2)  # the writer catches up
    await log.close()
    return median(times)


async def main() -> None:
    print(f"without a session {await measure(session=False):.2f} µs")  # noqa: T201
    print(f"with a session    {await measure(session=True):.2f} µs")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
