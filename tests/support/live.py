"""What watches a scheduler that no gateway runs."""

from __future__ import annotations

from collections.abc import Callable

from llmgate.core.gpus import Gpus
from llmgate.core.scheduler import Scheduler
from llmgate.gateway.asgi import Receive, Scope, Send, respond_json
from llmgate.gateway.live import Live
from llmgate.gateway.live_views import GatewayView
from llmgate.gateway.snapshots import Snapshots
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.rates import Rates

GATEWAY = GatewayView(version="0", policy="p", uptime_seconds=1, draining=False, host="127.0.0.1", port=8080, tls=False)


def snapshots_of(scheduler: Scheduler, clock: Callable[[], float], gpus: Gpus | None = None) -> Snapshots:
    pool = scheduler.pool
    rates = Rates(pool, Metrics(pool, clock), clock)
    gpus = gpus or Gpus(pool, "here")
    return Snapshots(scheduler, rates, gpus, lambda: GATEWAY, clock=clock, wall_clock=lambda: 1_700_000_000.0)


class OneLine(Live):
    """Its streams end after the first line: clients that call an application in their own process wait for the end."""

    async def _next(self) -> bytes | None:
        return None


def live_of(scheduler: Scheduler, clock: Callable[[], float]) -> Live:
    return OneLine(snapshots_of(scheduler, clock))


async def data_app(scope: Scope, receive: Receive, send: Send) -> None:
    await respond_json(send, 200, b"{}")
