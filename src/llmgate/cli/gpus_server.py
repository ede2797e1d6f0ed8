"""`llmgate gpus --serve`: what this machine's GPUs say, to gateways and to Prometheus."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from llmgate.core.gpu import GpuReading
from llmgate.core.gpus import Gpus
from llmgate.core.pool import EndpointPool
from llmgate.gateway.asgi import Receive, Scope, Send, respond, respond_json
from llmgate.probes.gpus import GpuWatch
from llmgate.probes.nvml import Nvml
from llmgate.telemetry.gpus import GpuCollector
from llmgate.wire.gpu_pages import write_readings

INTERVAL = 1.0
STALE_SECONDS = 10.0
"""Without a reading for so long nothing is shown: old figures would pass for new ones."""

logger = logging.getLogger("llmgate")


class GpuServer:
    """`/metrics` has the gateway's own series, `/gpus` the readings for a gateway, `/health` says if there are any."""

    def __init__(self, node: str) -> None:
        pool = EndpointPool()
        self._node = node
        self._gpus = Gpus(pool, node)
        self._registry = CollectorRegistry()
        self._registry.register(GpuCollector(self._gpus, pool))
        self._readings: Sequence[GpuReading] = ()
        self._read_at = -math.inf
        self._watch = GpuWatch(Nvml(node), INTERVAL, self._take)

    async def serve(self, host: str, port: int) -> None:
        """Until SIGINT or SIGTERM."""
        plain = {"interface": "asgi3", "lifespan": "off", "ws": "none", "log_config": None, "access_log": False}
        config = uvicorn.Config(self.app, host, port, log_level="warning", **plain)  # type: ignore[arg-type]
        self._watch.start()
        try:
            await uvicorn.Server(config).serve()
        finally:
            await self._watch.stop()

    def _take(self, readings: Sequence[GpuReading]) -> None:
        self._readings, self._read_at = readings, time.monotonic()
        for gpu, state, reason in self._gpus.take_in(self._node, readings):
            logger.warning("GPU %s (%s) is %s: %s", gpu.label, gpu.name, state.value, reason or "well")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, fresh = scope["path"], time.monotonic() - self._read_at < STALE_SECONDS
        if path not in ("/gpus", "/metrics", "/health"):
            await respond_json(send, 404, b'{"error":"there are /gpus, /metrics and /health"}')
        elif not fresh:
            await respond_json(send, 503, b'{"error":"the driver has not answered lately"}')
        elif path == "/metrics":
            page = generate_latest(self._registry)
            await respond(send, 200, page, [(b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode())])
        else:
            await respond_json(send, 200, write_readings(self._readings) if path == "/gpus" else b'{"status":"ok"}')


def serve(node: str, host: str, port: int) -> None:
    """Raises NoDriver. A port that cannot be had ends the process with a line in the log."""
    with Nvml(node) as nvml:
        logger.info("GPUs of %s on http://%s:%d/metrics and /gpus; driver %s", node, host, port, nvml.driver)
    asyncio.run(GpuServer(node).serve(host, port))
