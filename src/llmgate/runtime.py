"""The only place where objects are wired together: from a Config to a running gateway, and back to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from random import Random

from llmgate.config import Config, EndpointConfig
from llmgate.core.errors import ProtocolViolation
from llmgate.core.hardware import prior_weight
from llmgate.core.health import HealthPolicy
from llmgate.core.pool import EndpointPool
from llmgate.core.retry import RetryPolicy
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec
from llmgate.gateway.app import App
from llmgate.gateway.edits import EditRules
from llmgate.gateway.intake import Intake
from llmgate.gateway.protocol import GatewayProtocol
from llmgate.gateway.proxy import Destination, Proxy
from llmgate.gateway.server import Server, bind
from llmgate.probes.monitor import Monitor
from llmgate.probes.page import MAX_PAGE_BYTES, Page
from llmgate.routing import registry
from llmgate.telemetry.metrics import Metrics
from llmgate.tokens import TokenCounter, load_tokenizer
from llmgate.upstream.base import Target, Timeouts, UpstreamClient
from llmgate.upstream.native import NativeClient

logger = logging.getLogger("llmgate")


class Gateway:
    """One gateway process. Building it binds its ports and loads its tokenizers; `run` serves until `stop`.

    Building raises OSError when a port cannot be had, TokenizerError, and ValueError for a URL or a file that cannot
    be used; each says what in one sentence.
    """

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self.pool = EndpointPool(
            [_spec(endpoint) for endpoint in config.endpoints],
            aliases={alias: model.name for model in config.models for alias in model.aliases},
            health=HealthPolicy(config.health.rise, config.health.fall, config.health.strikes, config.health.eject),
        )
        self.scheduler = Scheduler(
            self.pool, registry.create(config.router.policy, config.router.options), seed=time.time_ns()
        )
        self._destinations = {endpoint.name: _destination(config, endpoint) for endpoint in config.endpoints}
        self.metrics = Metrics(self.pool, clock)
        self._tokenizers = _load_tokenizers(config)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        with contextlib.ExitStack() as undo:
            data_socket = bind(config.server.host, config.server.port)
            undo.callback(data_socket.close)
            admin_socket = bind(config.admin.host, config.admin.port)
            undo.pop_all()
        self.data_port: int = data_socket.getsockname()[1]
        self.admin_port: int = admin_socket.getsockname()[1]
        self.client: UpstreamClient = NativeClient()
        self.app = self._data_app()
        self._data = Server(self.app, data_socket, drain=config.timeouts.drain, protocol=GatewayProtocol)
        self._admin = Server(self._admin_app(), admin_socket, drain=1.0)
        self._monitor = Monitor(
            self.pool,
            self._fetch,
            health=config.health,
            scrape=config.scrape,
            clock=clock,
            sleep=asyncio.sleep,
            rng=Random(),
        )

    async def run(self) -> None:
        """Serve until `stop`; then drain, and return when every charge is settled and every connection closed."""
        for endpoint in self.pool:
            self._monitor.watch(endpoint)
        servers = [asyncio.create_task(server.run_until_stopped()) for server in (self._data, self._admin)]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *servers], return_when=asyncio.FIRST_COMPLETED)
            await self._begin_drain()
            await servers[0]
            self._admin.stop()  # last: until then the drain can be watched
            await servers[1]
        finally:
            stopping.cancel()
            for server in servers:
                server.cancel()
            await self._monitor.stop()
            await self.client.aclose()
        logger.info("stopped; %d charges left open", self.scheduler.ledger.open_charges)

    def stop(self) -> None:
        """Begin a graceful shutdown; called again, end it at once."""
        if self._stopping.is_set():
            self._hurry.set()
            self._data.stop_now()
        self._stopping.set()

    async def _begin_drain(self) -> None:
        self.app.draining = True
        in_flight = self.scheduler.ledger.open_charges
        logger.info("stopping: %d requests in flight may take up to %g s", in_flight, self.config.timeouts.drain)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self.config.timeouts.notice)
        self._data.stop()

    def _data_app(self) -> App:
        config = self.config
        timeouts, retries = config.timeouts, config.retries
        proxy = Proxy(
            self.scheduler,
            Intake(self.scheduler, self._tokenizers),
            self.client,
            self._destinations,
            self.metrics,
            policy_name=config.router.policy,
            timeouts=Timeouts(timeouts.connect, timeouts.first_byte, timeouts.idle),
            retry=RetryPolicy(retries.max_attempts, retries.ratio, retries.floor, retries.burst),
            clock=self._clock,
            edit_rules=EditRules(config.usage.inject, config.server.rewrite_answer_model),
        )
        return App(
            self.scheduler,
            proxy,
            self.metrics,
            body_limit=config.server.body_limit,
            clock=self._clock,
            started_at=int(time.time()),
        )

    def _admin_app(self) -> object:
        from llmgate.gateway.admin import create_admin_app  # FastAPI takes a while to import: not for `llmgate check`

        return create_admin_app(
            self.scheduler,
            self.metrics,
            clock=self._clock,
            token=self.config.admin.token.get_secret_value(),
            hosts=(self.config.admin.host,),
        )

    async def _fetch(self, endpoint: Endpoint, path: str, timeout: float) -> Page:
        """How probes ask an engine something: through the same client, credentials and TLS as requests."""
        destination = self._destinations[endpoint.name]
        limits = Timeouts(min(timeout, self.config.timeouts.connect), timeout, timeout)
        response = await self.client.open(
            destination.target, "GET", path.encode(), destination.credentials or (), b"", limits
        )
        try:
            body = bytearray()
            while chunk := await response.read():
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    raise ProtocolViolation(f"{path} answered more than {MAX_PAGE_BYTES} bytes")
            return Page(response.status, tuple(response.headers), bytes(body))
        finally:
            response.close()


def _spec(endpoint: EndpointConfig) -> EndpointSpec:
    weight = endpoint.weight
    if weight is None:
        weight = 1.0 if endpoint.gpu is None else prior_weight(endpoint.gpu)
        if weight is None:
            logger.warning("%s: no weight is known for the GPU %r; it counts as 1.0", endpoint.name, endpoint.gpu)
            weight = 1.0
    models = endpoint.models
    return EndpointSpec(
        name=endpoint.name,
        url=endpoint.url,
        weight=weight,
        engine=endpoint.engine,
        models=None if models is None else {model.name: model.served_as or model.name for model in models},
        precisions={model.name: model.precision for model in models or () if model.precision},
        gpu=endpoint.gpu,
        node=endpoint.node,
        gpus=tuple(endpoint.gpus or ()),
        labels=endpoint.labels,
    )


def _destination(config: Config, endpoint: EndpointConfig) -> Destination:
    tls = None
    if endpoint.tls_ca is not None:
        try:
            tls = ssl.create_default_context(cafile=endpoint.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{endpoint.name}: tls_ca {endpoint.tls_ca} cannot be used: {error}") from None
    key = endpoint.api_key.get_secret_value()
    if key:
        credentials = ((b"authorization", b"Bearer " + key.encode()),)
        return Destination(Target.parse(endpoint.url, tls), credentials)
    return Destination(Target.parse(endpoint.url, tls), None if config.server.forward_authorization else ())


def _load_tokenizers(config: Config) -> dict[str, TokenCounter]:
    return {model.name: load_tokenizer(model.tokenizer) for model in config.models if model.tokenizer}
