"""The only place where objects are wired together: from a Config to a running gateway, and back to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from llmgate import __version__, wiring
from llmgate.config import (
    Config,
    ConfigError,
    ConfigFile,
    EndpointConfig,
    FileWatch,
    TlsFiles,
)
from llmgate.core.errors import ProtocolViolation
from llmgate.core.gpu import GpuReading, GpuState
from llmgate.core.gpus import Gpus
from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint
from llmgate.gateway.admin_views import ReloadView
from llmgate.gateway.app import App
from llmgate.gateway.asgi import ASGIApp
from llmgate.gateway.comparison_views import ComparisonView
from llmgate.gateway.control import NameTaken, NothingToReload
from llmgate.gateway.fleet import Fleet, Member
from llmgate.gateway.gate import Gate
from llmgate.gateway.intake import Intake
from llmgate.gateway.live import Live
from llmgate.gateway.live_views import GatewayView
from llmgate.gateway.protocol import GatewayProtocol
from llmgate.gateway.proxy import Destination, Proxy
from llmgate.gateway.server import Server, Switch, bind
from llmgate.gateway.snapshots import Snapshots
from llmgate.gateway.tls import Listeners, destination_of, listeners_of, warn_of_unchecked
from llmgate.probes.kv_events import KvEvents
from llmgate.probes.monitor import Monitor
from llmgate.probes.page import MAX_PAGE_BYTES, Page
from llmgate.probes.periodic import sleep_on_grid
from llmgate.telemetry.access_log import AccessLog, DroppedCollector
from llmgate.telemetry.certificates import Certificate, CertificateCollector, Reminders
from llmgate.telemetry.comparison import ComparisonCollector
from llmgate.telemetry.data_port import DataPortCollector
from llmgate.telemetry.gpus import GpuCollector
from llmgate.telemetry.kv_events import KvEventsCollector
from llmgate.telemetry.metrics import Metrics
from llmgate.telemetry.pulse import Pulse
from llmgate.telemetry.rates import Rates
from llmgate.telemetry.tokenizers import ESTIMATED, TokenizerCollector
from llmgate.tokens import TokenCounter, TokenizerError, load_tokenizer
from llmgate.upstream.base import Timeouts, UpstreamClient
from llmgate.upstream.native import NativeClient

UNWATCHED_SECONDS = 5.0
"""How often it is looked whether the configuration's file is to be watched after all."""

EXPLAIN_SECONDS = 0.05
"""Every decision is explained, but no more than 20 a second: in front of 8 endpoints that is 0.1 % of a core."""

SHARED_SECONDS = 10.0
"""How long a gateway that shares its ports waits for its first engine before it takes requests all the same."""
READY_POLL_SECONDS = 0.02

logger = logging.getLogger("llmgate")


class Gateway:
    """One gateway process. Building it binds its ports and loads its tokenizers; `run` serves until `stop`.

    Building raises OSError when a port or the access log cannot be had, TokenizerError when a tokenizer is not there,
    and ValueError for a URL or a file that cannot be used; each says what in one sentence. Without a `source` there is
    nothing to reload.
    """

    def __init__(
        self, config: Config, *, source: ConfigFile | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self._source = source
        self._watch = None if source is None else FileWatch(source.path)
        self._clock = clock
        self._endpoints = {endpoint.name: endpoint for endpoint in config.endpoints}  # the members' configuration
        self._added: set[str] = set()  # those of them that came by the admin port
        self._tls_files = files = TlsFiles()
        self._listeners = listeners_of(config, files)
        members = [Member(wiring.spec(each), destination_of(config, each, files)) for each in config.endpoints]
        warn_of_unchecked(config.endpoints)
        self.pool = EndpointPool(
            [member.spec for member in members], aliases=wiring.aliases(config), health=wiring.health_policy(config)
        )
        self.scheduler = Scheduler(
            self.pool, config.router.create(), seed=time.time_ns(), explain_every=EXPLAIN_SECONDS
        )
        self._compare()
        destinations = {member.spec.name: member.destination for member in members}
        self._destinations = destinations
        self.metrics = Metrics(self.pool, clock)
        self.gpus = Gpus(self.pool, wiring.node(config), wiring.gpu_policy(config))
        self._gpu_watches = wiring.gpu_watches(config, self._take_in_gpus, clock)
        self._intake = Intake(self.scheduler, wiring.load_tokenizers(config))
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changing = asyncio.Lock()  # one change of the configuration at a time
        self._tasks: set[asyncio.Task[None]] = set()
        with contextlib.ExitStack() as undo:
            data_socket = bind(config.server.host, config.server.port, shared=config.server.reuse_port)
            undo.callback(data_socket.close)
            admin_socket = bind(config.admin.host, config.admin.port, shared=config.server.reuse_port)
            undo.callback(admin_socket.close)
            self.access_log = wiring.access_log(config)
            self.debug_log = wiring.debug_log(config)
            undo.pop_all()
        self._intake.log_sessions = self.access_log is not None
        self.metrics.registry.register(ComparisonCollector(lambda: self.scheduler.comparison))
        self.metrics.registry.register(GpuCollector(self.gpus, self.pool))
        self.metrics.registry.register(DroppedCollector(lambda: self.access_log))
        self.metrics.registry.register(KvEventsCollector(self.pool, self.scheduler.block_index))
        self.metrics.registry.register(TokenizerCollector(self._libraries, self._intake.uncountable))
        self.data_port: int = data_socket.getsockname()[1]
        self.admin_port: int = admin_socket.getsockname()[1]
        self.client: UpstreamClient = NativeClient()
        self._monitor = Monitor(
            self.pool,
            self._fetch,
            health=config.health,
            scrape=config.scrape,
            clock=clock,
            sleep=sleep_on_grid,
            rng=Random(),
            kv_events=KvEvents(self.scheduler.block_index),
        )
        if self.debug_log is not None:
            self.metrics.registry.register(self.debug_log)
        self.tracing = wiring.tracing(config)
        if self.tracing is not None:
            self.metrics.registry.register(self.tracing)
        self._proxy = self._make_proxy()
        self.gate = Gate(wiring.limits(config))
        self.app = App(
            self.scheduler,
            self._proxy,
            self.metrics,
            self.gate,
            body_limit=config.server.body_limit,
            clock=clock,
            started_at=int(time.time()),
        )
        self.app.allow_origins(wiring.cors(config))
        self.app.shows_metrics = config.server.metrics
        self._data = Server(
            self.app,
            data_socket,
            drain=config.timeouts.drain,
            protocol=GatewayProtocol,
            tls=self._listeners.data_context,
        )
        self.gate.in_flight = self._data.server_state.tasks
        connections = self._data.server_state.connections
        self.metrics.registry.register(DataPortCollector(self.gate, lambda: len(connections)))
        self._pulse = Pulse(self.metrics.registry, self.gate.loop_was_late, clock)
        self.fleet = Fleet(
            self.scheduler,
            self.metrics,
            self._monitor,
            self.client,
            destinations,
            drain=config.timeouts.drain,
            clock=clock,
        )
        self._started_at = clock()
        rates = Rates(self.pool, self.metrics, clock)
        self.live = Live(Snapshots(self.scheduler, rates, self.gpus, self._describe, clock=clock, wall_clock=time.time))
        self._admin_app = Switch(self._make_admin_app(config))
        self._admin = Server(self._admin_app, admin_socket, drain=1.0, tls=self._listeners.admin_context)
        self.metrics.registry.register(CertificateCollector(self._certificates))

    async def run(self) -> None:
        """Serve until `stop`; then drain, and return when every charge is settled and every connection closed."""
        self.fleet.watch()
        self._pulse.start()
        self.live.start()
        for watch in self._gpu_watches:
            watch.start()
        stopping = asyncio.create_task(self._stopping.wait())
        servers = [asyncio.create_task(self._admin.run_until_stopped())]
        if self._watch is not None:
            self._spawn(self._follow_file(self._watch))
        self._spawn(self._follow_certificates())
        try:
            if self.config.server.reuse_port:
                await self._get_ready()
            servers.append(asyncio.create_task(self._data.run_until_stopped()))
            await asyncio.wait([stopping, *servers], return_when=asyncio.FIRST_COMPLETED)
            await self._begin_drain()
            await servers[1]
            self.live.stop()  # last: until then the drain can be watched
            self._admin.stop()
            await servers[0]
        finally:
            self._pulse.stop()
            self.live.stop()
            for watch in self._gpu_watches:
                await watch.stop()
            stopping.cancel()
            for task in (*servers, *self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.fleet.stop()
            await self._monitor.stop()
            await self.client.aclose()
            if self.access_log is not None:
                await self.access_log.close()
            if self.debug_log is not None:
                await self.debug_log.close()
            if self.tracing is not None:
                await self.tracing.close()
        logger.info("stopped; %d charges left open", self.scheduler.ledger.open_charges)

    def stop(self) -> None:
        """Begin a graceful shutdown; called again, end it at once."""
        if self._stopping.is_set():
            self._hurry.set()
            self._data.stop_now()
        self._stopping.set()

    def hang_up(self) -> None:
        """What SIGHUP means: a new file for the access log, and a reload."""
        if self.access_log is not None:
            self.access_log.reopen()
        if self.debug_log is not None:
            self.debug_log.reopen()
        if self._source is not None:
            self._spawn(self._reload_and_tell())

    # Changes while it runs -------------------------------------------------------------------------------------------

    async def reload(self) -> ReloadView:
        """Read the configuration again and make all of it take effect, or raise ConfigError with everything that is
        wrong with it and change nothing. Raises NothingToReload.

        Endpoints that stay (the same name and URL) keep what was learnt of them and what is in flight there. Those that
        were added by hand stay, too, unless the file now has that name.
        """
        if self._source is None or self._watch is None:
            raise NothingToReload("There is no configuration file to reload: llmgate was started without --config.")
        async with self._changing:
            self._watch.mark()
            try:
                config = await asyncio.to_thread(self._source.read)
                plan = await asyncio.to_thread(self._plan, config, str(self._source.path))
            except ConfigError:
                self.metrics.reloaded("refused")
                raise
            old_log = self.access_log
            await self._use(plan.listeners)
            changes = self._apply(plan)
            warn_of_unchecked(plan.endpoints[name] for name in (*changes.added, *changes.changed))
            if old_log is not None and old_log is not self.access_log:
                await old_log.close()
            self.metrics.reloaded("applied")
            return changes

    def effective_config(self) -> Config:
        """The configuration's, with the endpoints that there are: one removed by hand is not there, one added is."""
        return self.config.model_copy(update={"endpoints": list(self._endpoints.values())})

    def policies(self) -> ComparisonView | None:
        comparison = self.scheduler.comparison
        return None if comparison is None else ComparisonView.of(comparison, self._clock() - self._compared_since)

    def _compare(self) -> None:
        """From now on, by the configuration in effect."""
        self.scheduler.comparison = wiring.comparison(self.config, self.scheduler.router)
        self._compared_since = self._clock()

    def _libraries(self) -> dict[str, str]:
        """What counts the prompts of each model that has a tokenizer configured."""
        counters = self._intake.tokenizers
        names = [model.name for model in self.config.models if model.tokenizer]
        return {name: counters[name].library if name in counters else ESTIMATED for name in names}

    def is_leaving(self, endpoint: Endpoint) -> bool:
        return self.fleet.is_leaving(endpoint)

    async def add_endpoint(self, wanted: EndpointConfig) -> Endpoint:
        """Raises NameTaken, and ValueError if it cannot be used."""
        async with self._changing:
            if wanted.name in self._endpoints:
                raise NameTaken(wanted.name)
            destination = await asyncio.to_thread(destination_of, self.config, wanted, self._tls_files)
            warn_of_unchecked([wanted])
            endpoint = self.fleet.add(Member(wiring.spec(wanted), destination))
            self._endpoints[wanted.name] = wanted
            self._added.add(wanted.name)
            logger.info("%s was added", wanted.name)
            return endpoint

    async def remove_endpoint(self, endpoint: Endpoint) -> None:
        async with self._changing:
            if self.pool.get(endpoint.name) is endpoint:
                self._endpoints.pop(endpoint.name, None)
                self._added.discard(endpoint.name)
                self.fleet.remove(endpoint)
                logger.info("%s is being removed", endpoint.name)

    def _plan(self, config: Config, source: str) -> _Plan:
        """Everything that may fail, before anything is changed. Runs in a thread. Raises ConfigError."""
        problems = list(wiring.fixed_changes(self.config, config))
        endpoints = {endpoint.name: endpoint for endpoint in config.endpoints}
        added = {name: self._endpoints[name] for name in self._endpoints if name in self._added - endpoints.keys()}
        endpoints |= added
        members: list[Member] = []
        for index, endpoint in enumerate(endpoints.values()):
            try:
                members.append(Member(wiring.spec(endpoint), destination_of(config, endpoint, self._tls_files)))
            except ValueError as error:
                problems.append(f"endpoints[{index}]: {error}")
        listeners = self._listeners
        try:
            listeners = listeners_of(config, self._tls_files).better_than(self._listeners, time.time())
        except ValueError as error:
            problems.append(str(error))
        tokenizers: dict[str, TokenCounter] = {}
        loaded = {model.tokenizer: model.name for model in self.config.models if model.name in self._intake.tokenizers}
        given = {model.tokenizer for model in self.config.models}
        for index, model in enumerate(config.models):
            if model.tokenizer in loaded:
                tokenizers[model.name] = self._intake.tokenizers[loaded[model.tokenizer]]
            elif model.tokenizer:
                try:
                    tokenizers[model.name] = load_tokenizer(model.tokenizer)
                except TokenizerError as error:
                    if model.tokenizer in given:
                        wiring.warn_of_estimates(model.name, error)
                    else:
                        problems.append(f"models[{index}].tokenizer: {error}")
        log = self.access_log
        if config.access_log != self.config.access_log and not problems:
            try:
                log = wiring.access_log(config)
            except OSError as error:
                problems.append(f"access_log.to: {error}")
        if problems:
            raise ConfigError(source, problems)
        router = self.scheduler.router if config.router.routes_as(self.config.router) else config.router.create()
        admin = self._admin_app.app if config.admin == self.config.admin else self._make_admin_app(config)
        return _Plan(config, endpoints, set(added), members, listeners, tokenizers, router, log, admin)

    def _apply(self, plan: _Plan) -> ReloadView:
        """Put a plan into effect. Nothing in here waits or fails, so no request sees half of it."""
        old, config = self.config, plan.config
        self.config, self._endpoints, self._added = config, plan.endpoints, plan.added
        self._data.config.timeout_graceful_shutdown = config.timeouts.drain  # type: ignore[assignment]
        self.fleet.drain = config.timeouts.drain
        changes = self.fleet.apply(plan.members)
        self.pool.set_aliases(wiring.aliases(config))
        if plan.router is not self.scheduler.router:
            self.scheduler.router = plan.router
        if config.router != old.router or config.access_log != old.access_log:
            self._compare()
        if config.health != old.health:
            self.pool.set_health_policy(wiring.health_policy(config))
        self.gpus.set_policy(wiring.gpu_policy(config))
        if (config.health, config.scrape) != (old.health, old.scrape):
            self._monitor.set_pace(config.health, config.scrape)
        self._intake.tokenizers = plan.tokenizers
        self._proxy.settings = wiring.proxy_settings(config)
        self.access_log = self._proxy.access_log = plan.access_log
        self._intake.log_sessions = plan.access_log is not None
        self.gate.limits = wiring.limits(config)
        self.app.body_limit = config.server.body_limit
        self.app.allow_origins(wiring.cors(config))
        self.app.shows_metrics = config.server.metrics
        if plan.admin_app is not self._admin_app.app:
            self._admin_app.app = plan.admin_app
            self.live.dismiss()  # whoever watches may not have the new token
        self._forget_unused_tls()
        sections = [name for name in Config.model_fields if getattr(config, name) != getattr(old, name)]
        return ReloadView(
            added=changes.added,
            removed=changes.removed,
            changed=changes.changed,
            sections=[name for name in sections if name != "endpoints"],
        )

    async def _reload_and_tell(self) -> None:
        try:
            changes = await self.reload()
        except ConfigError as error:
            for problem in error.problems:
                logger.error("not reloaded: %s: %s", error.source, problem)
            return
        except Exception:  # a mistake of ours or of a stranger's router: the gateway goes on as it was
            logger.exception("not reloaded, because of a mistake in the gateway")
            return
        said = [f"{word} {', '.join(names)}" for word, names in changes.model_dump().items() if names]
        logger.info("reloaded: %s", "; ".join(said) or "nothing has changed")

    async def _follow_file(self, watch: FileWatch) -> None:
        while True:
            await asyncio.sleep(self.config.reload.watch or UNWATCHED_SECONDS)
            if self.config.reload.watch and await asyncio.to_thread(watch.changed):
                await self._reload_and_tell()

    def _take_in_gpus(self, node: str, readings: Sequence[GpuReading]) -> None:
        for gpu, state, reason in self.gpus.take_in(node, readings):
            level = logging.INFO if state is GpuState.OK else logging.WARNING
            logger.log(
                level, "GPU %s of %s (%s) is %s: %s", gpu.label, gpu.node, gpu.name, state.value, reason or "well"
            )

    # Certificates ----------------------------------------------------------------------------------------------------

    async def _follow_certificates(self) -> None:
        """Takes in certificates and keys whose files have changed, however wrong the configuration's file may be now:
        one that is about to expire cannot wait for that."""
        refused = ""
        told = Reminders(time.time)
        while True:
            for message in told.due(self._certificates()):
                logger.warning("%s", message)
            await asyncio.sleep(self.config.reload.watch or UNWATCHED_SECONDS)
            if not self.config.reload.watch:
                continue
            try:
                await self._renew()
                refused = ""
            except (ValueError, OSError) as error:
                if str(error) != refused:
                    refused = str(error)
                    logger.error("changed files are not taken in, those of before stay in effect: %s", error)

    async def _renew(self) -> None:
        """Raises ValueError with what is wrong, and has changed nothing then; OSError."""
        async with self._changing:
            secure = [each for each in self._endpoints.values() if each.client_tls is not None]
            if not secure and self._listeners == (None, None):
                return
            listeners, destinations = await asyncio.to_thread(self._tls_again, secure)
            if listeners != self._listeners:
                await self._use(listeners)
                logger.info("new connections of clients get the certificates of the changed files")
            for each, destination in zip(secure, destinations, strict=True):
                endpoint = self.pool.get(each.name)
                if endpoint is not None and destination != self._destinations[each.name]:
                    self.fleet.add(Member(endpoint.spec, destination))
                    logger.info("%s: new connections are made with the changed files of its tls", each.name)
            self._forget_unused_tls()

    def _tls_again(self, endpoints: list[EndpointConfig]) -> tuple[Listeners, list[Destination]]:
        listeners = listeners_of(self.config, self._tls_files).better_than(self._listeners, time.time())
        return listeners, [destination_of(self.config, each, self._tls_files) for each in endpoints]

    async def _use(self, listeners: Listeners) -> None:
        """For connections of clients from now on. Raises OSError."""
        await self._data.use_tls(listeners.data_context)
        await self._admin.use_tls(listeners.admin_context)
        self._listeners = listeners

    def _forget_unused_tls(self) -> None:
        in_use = {destination.target.tls for destination in self._destinations.values()}
        self._tls_files.keep(in_use | {self._listeners.data_context, self._listeners.admin_context})

    def _certificates(self) -> list[Certificate]:
        """Those that the gateway shows to others."""
        listeners = (("server.tls", self._listeners.data), ("admin.tls", self._listeners.admin))
        shown = [Certificate(section, "", tls.expires) for section, tls in listeners if tls and tls.expires]
        for name, destination in self._destinations.items():
            if (expires := self._tls_files.expiry(destination.target.tls)) is not None:
                shown.append(Certificate("endpoints.tls", name, expires))
        return shown

    # -----------------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -----------------------------------------------------------------------------------------------------------------

    async def _get_ready(self) -> None:
        """Leave the requests to those who share the port until an engine is known to be up, for a while."""
        for _ in range(round(SHARED_SECONDS / READY_POLL_SECONDS)):
            if self._stopping.is_set() or self.pool.any_ready(self._clock()):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), READY_POLL_SECONDS)

    async def _begin_drain(self) -> None:
        self.app.draining = True
        self._data.announce_end()
        in_flight = self.scheduler.ledger.open_charges
        logger.info("stopping: %d requests in flight may take up to %g s", in_flight, self.config.timeouts.drain)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self.config.timeouts.notice)
        self._data.stop()

    def _make_proxy(self) -> Proxy:
        proxy = Proxy(
            self.scheduler,
            self._intake,
            self.client,
            self._destinations,
            self.metrics,
            wiring.proxy_settings(self.config),
            ejected=self._monitor.rewatch,  # it says so in the log at once, and asks more often until it is up
            clock=self._clock,
        )
        proxy.access_log = self.access_log
        proxy.tracing = self.tracing
        proxy.debug_log = self.debug_log
        return proxy

    def _make_admin_app(self, config: Config) -> ASGIApp:
        from llmgate.gateway.admin import create_admin_app  # FastAPI takes a while to import: not for `llmgate check`

        return create_admin_app(
            self.scheduler,
            self.metrics,
            self,
            live=self.live,
            data=self.app,
            clock=self._clock,
            token=config.admin.token.get_secret_value(),
            hosts=(config.admin.host,),
        )

    def _describe(self) -> GatewayView:
        server = self.config.server
        return GatewayView(
            version=__version__,
            policy=self.config.router.policy,
            uptime_seconds=self._clock() - self._started_at,
            draining=self.app.draining,
            host=server.host,
            port=self.data_port,
            tls=server.tls is not None,
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A configuration with all that could be prepared of it; what has not changed is what there is already."""

    config: Config
    endpoints: dict[str, EndpointConfig]  # the file's, then those added by hand
    added: set[str]  # names of the latter
    members: list[Member]
    listeners: Listeners
    tokenizers: dict[str, TokenCounter]
    router: Router
    access_log: AccessLog | None
    admin_app: ASGIApp
