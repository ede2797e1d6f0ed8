"""What one request costs inside the process: the real gateway between sockets that are not there.

    python -m benchmarks.inprocess [--kb 1] [--endpoints 8] [--policy expected-latency] [--trace PART] [--profile]

The kernel, uvloop's streams and the load generator are left out, so a change of a microsecond shows where
`benchmarks.overhead` would need many rounds. Compare two runs on the same machine; the best of `--rounds` is printed:
CPU time of the process, with that of the thread that exports traces. None of their spans is dropped: requests wait
until the collector, in a process of its own, has taken enough.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import uvicorn
import uvloop
from rich import print
from uvicorn.server import ServerState

from benchmarks.overhead.fake_engines import Answers
from benchmarks.tracing.collector import collector
from llmgate.config import from_data
from llmgate.gateway.protocol import GatewayProtocol
from llmgate.routing.registry import DEFAULT
from llmgate.runtime import Gateway
from llmgate.upstream.connection import Connection
from llmgate.upstream.native import NativeClient
from llmgate.upstream.pool import Pool

REQUESTS = 4000
ENOUGH = 1024  # spans that wait, of the 2,048 that may
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def requests(kb: int) -> list[bytes]:
    """A system prompt of `kb` KiB that all share, and a fresh question."""
    system = "You are a helpful assistant, answer well. " * (kb * 1024 // 42)
    made = []
    for number in range(REQUESTS):
        messages = f'[{{"role":"system","content":"{system}"}},{{"role":"user","content":"question {number * 7919}"}}]'
        body = f'{{"model":"m","messages":{messages}}}'.encode()
        made.append(HEAD % len(body) + body)
    return made


class NoSocket(asyncio.Transport):
    """`sent` is called with what would go to the other end."""

    def __init__(self, sent: Callable[[], object]) -> None:
        super().__init__()
        self._sent = sent

    def write(self, data: Any) -> None:
        self._sent()

    def writelines(self, pieces: Any) -> None:
        self._sent()

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class NoNetwork(NativeClient):
    """Each of its connections answers by itself, in the next turn of the loop."""

    async def _connect(self, target: object, pool: Pool, timeout: float) -> Connection:
        loop = asyncio.get_running_loop()
        answer = Answers(100, 0.0).whole
        connection = Connection(loop, pool)
        connection.connection_made(NoSocket(lambda: loop.call_soon(connection.data_received, answer)))
        return connection


class Load:
    """One client connection that sends a request when the answer to the last one has come."""

    def __init__(self, gateway: Gateway, sent: list[bytes]) -> None:
        self._tracing = gateway.tracing
        self._loop = asyncio.get_running_loop()
        self._sent = sent
        plain = {"ws": "none", "lifespan": "off", "interface": "asgi3", "proxy_headers": False, "log_config": None}
        config = uvicorn.Config(gateway.app, http=GatewayProtocol, access_log=False, **plain)  # type: ignore[arg-type]
        config.load()
        self._protocol = GatewayProtocol(config, ServerState(), {}, self._loop)
        self._protocol.connection_made(NoSocket(self._answered))

    async def round(self) -> float:
        """µs a request."""
        self._number = 0
        self._done = self._loop.create_future()
        started = time.process_time()
        self._next()
        await self._done
        return (time.process_time() - started) / len(self._sent) * 1e6

    def _answered(self) -> None:
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._number == len(self._sent):
            self._done.set_result(None)
            return
        if self._tracing is not None and self._tracing.waiting >= ENOUGH:
            self._loop.call_later(0.005, self._next)
            return
        self._number += 1
        self._protocol.data_received(self._sent[self._number - 1])


async def main(kb: int, endpoints: int, policy: str, rounds: int, profile: bool, tracing: dict[str, Any]) -> None:
    urls = [{"url": f"http://127.0.0.1:{9100 + number}", "models": ["m"]} for number in range(endpoints)]
    ports = {"host": "127.0.0.1", "port": 0}
    settings = {"server": ports, "admin": ports, "endpoints": urls, "router": {"policy": policy}, "tracing": tracing}
    gateway = Gateway(from_data(settings, "benchmark"))
    for endpoint in gateway.pool:
        endpoint.health.probe_passed()
    gateway.app._proxy._client = NoNetwork()
    load = Load(gateway, requests(kb))
    await load.round()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # as `llmgate serve` has it
    best = min([await load.round() for _ in range(rounds)])
    print(f"{best:.1f} µs a request of {kb} KB in front of {endpoints} endpoints")
    assert gateway.scheduler.ledger.open_charges == 0
    if gateway.tracing is not None:
        await gateway.tracing.close()
        print(", ".join(f"{count} spans {result}" for result, count in gateway.tracing.counts.items()))
    if profile:
        await profiled(load.round)


async def profiled(work: Callable[[], Awaitable[object]]) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    await work()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(50)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=int, default=1, help="size of the prompt (default: 1)")
    parser.add_argument("--endpoints", type=int, default=8, help="(default: 8)")
    parser.add_argument("--policy", default=DEFAULT, help=f"(default: {DEFAULT})")
    parser.add_argument("--rounds", type=int, default=6, help="of 4,000 requests each (default: 6)")
    parser.add_argument("--trace", type=float, metavar="PART", help="trace this part of the requests, from 0 to 1")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, function by function")
    args = parser.parse_args()
    with nullcontext() if args.trace is None else collector() as url:
        tracing = {} if url is None else {"enabled": True, "endpoint": url, "sample": args.trace}
        uvloop.run(main(args.kb, args.endpoints, args.policy, args.rounds, args.profile, tracing))
