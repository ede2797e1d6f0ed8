"""The hot path: one inference request from the client to an engine and its answer back.

    read → understand → (schedule → book → open → relay → settle) once or more → count

Nothing in here waits with a charge booked but for the engine or the client, and every way out settles it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from llmgate.core.errors import (
    InternalError,
    LlmgateError,
    NoReadyEndpoint,
    ShuttingDown,
    StreamRefused,
    UnsupportedEncoding,
    UpstreamError,
)
from llmgate.core.health import State
from llmgate.core.ledger import Charge
from llmgate.core.retry import BUSY_STATUSES, RETRYABLE_STATUSES, RetryBudget, RetryPolicy, may_try_next
from llmgate.core.scheduler import Scheduler
from llmgate.core.slo import Slo
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Verdict
from llmgate.gateway import traced
from llmgate.gateway.access import entry_of
from llmgate.gateway.answer import begin_early, relay
from llmgate.gateway.client import Client, respond_error
from llmgate.gateway.edits import EditRules, edits_for
from llmgate.gateway.exchange import Exchange
from llmgate.gateway.intake import Intake
from llmgate.gateway.keep_alive import KeptAlive
from llmgate.gateway.overheard import Overheard, write_down
from llmgate.gateway.promises import compare
from llmgate.telemetry.access_log import AccessLog
from llmgate.telemetry.crash import without_texts
from llmgate.telemetry.debug_log import DebugLog
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, Timeouts, UpstreamClient, UpstreamResponse
from llmgate.wire.asked import wanted_slo, wants_explanation
from llmgate.wire.engines import STREAM_ERROR, make_of, stream_refusal
from llmgate.wire.forwarded import ClientAddress
from llmgate.wire.headers import Header, retry_after, sort_request_headers
from llmgate.wire.kinds import KINDS, dialect_of

if TYPE_CHECKING:
    from llmgate.telemetry.tracing import Tracing

logger = logging.getLogger("llmgate.gateway")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before its answer was complete; seen in metrics only."""

BUSY_SECONDS = (1.0, 30.0)
"""For how long an engine that answered 429 or 503 is passed over: what its Retry-After says, within these."""

EVERYWHERE = frozenset({Kind.CHAT, Kind.COMPLETION})
"""Kinds that every make of engine takes."""


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach an endpoint. `credentials` replaces the client's own; None lets the client's pass."""

    target: Target
    credentials: tuple[Header, ...] | None = ()


@dataclass(frozen=True)
class ProxySettings:
    """What a reload may change."""

    policy: str  # the name that answers and the access log show
    timeouts: Timeouts
    retry: RetryPolicy
    model_timeouts: Mapping[str, Timeouts]  # by public model name; they go before `timeouts`
    keep_alive: float = 0.0  # seconds between comments in a stream that has not begun; 0: none
    client_address: ClientAddress | None = None  # tell engines the client's
    edit_rules: EditRules = EditRules()  # noqa: RUF009  (frozen)
    slo: Slo | None = None  # of requests that bring no targets of their own
    model_slos: Mapping[str, Slo] = field(default_factory=dict)  # by public model name; they go before `slo`
    explain: bool = False  # to clients that ask


class Proxy:
    """Serves inference requests; `serve` is called with the kind that the path stands for."""

    def __init__(
        self,
        scheduler: Scheduler,
        intake: Intake,
        client: UpstreamClient,
        destinations: Mapping[str, Destination],
        metrics: Metrics,
        settings: ProxySettings,
        *,
        ejected: Callable[[Endpoint], None],
        clock: Callable[[], float],
    ) -> None:
        """`ejected` is told of an endpoint that has just been ejected for how it answered."""
        self._scheduler = scheduler
        self._intake = intake
        self._client = client
        self._destinations = destinations
        self._metrics = metrics
        self.access_log: AccessLog | None = None
        self.debug_log: DebugLog | None = None
        self.tracing: Tracing | None = None
        self._budget = RetryBudget(settings.retry)
        self.settings = settings
        self._ejected = ejected
        self._clock = clock
        self._run_id = b"%016x" % Random().getrandbits(64)  # request ids need to differ, not to be secret
        self._numbers = count()

    @property
    def settings(self) -> ProxySettings:
        """Those in use. Others may be put in their place at any time, for requests from then on."""
        return self._settings

    @settings.setter
    def settings(self, settings: ProxySettings) -> None:
        if settings.retry != self._budget.policy:
            self._budget = RetryBudget(settings.retry)
        self._settings = settings
        self._policy = (settings.policy, (b"x-llmgate-policy", settings.policy.encode()))
        self._decisions = self._metrics.decisions.of(settings.policy)
        self._promises = settings.slo is not None or bool(settings.model_slos)

    async def serve(self, kind: Kind, client: Client) -> None:
        """Answer the request, whatever happens; drop it the moment the client leaves."""
        if client.gone:
            return
        spec = KINDS[kind]
        kept: KeptAlive | None = None
        exchange = self._begin(client)
        exchange.spec = spec
        overheard: Overheard | None = None
        if self.debug_log is not None and self.debug_log.wants(exchange.headers.credentials):
            exchange.client = client = overheard = Overheard(client)
        try:
            if exchange.headers.encoded:
                raise UnsupportedEncoding("The gateway reads request bodies, and takes none with a content-encoding.")
            request, exchange.fields = self._intake.understand(
                spec, client.headers, client.body, exchange.id, exchange.arrived
            )
            exchange.request = request
            if exchange.headers.own or self._promises:
                self._heed(exchange, request)
            if kind not in EVERYWHERE:
                exchange.unable = self._unable(request)
            if request.model in self._intake.tokenizers:
                await self._intake.count(request, exchange.fields)
            self._budget.note_request()
            if self._settings.keep_alive and request.stream:
                begin = partial(begin_early, exchange)
                exchange.client = kept = KeptAlive(client, self._settings.keep_alive, begin, spec.dialect)
            while not await self._attempt(exchange):
                pass
            if not exchange.drained:
                await client.drained()  # with nothing booked: the engine has done its part
        except asyncio.CancelledError:
            if client.gone and not exchange.ended:
                exchange.status = CLIENT_CLOSED_REQUEST
            else:  # the server ends what has outlived its grace period
                await self._break_off(exchange, ShuttingDown("The gateway is shutting down."))
        except LlmgateError as error:
            if exchange.endpoint is None:
                self._metrics.rejected(error.code or error.type)
            await self._break_off(exchange, error)
        except Exception as error:  # a bug, ours or a third-party router's: the client gets an answer all the same
            logger.error("request %s failed inside the gateway: %s", exchange.id, without_texts(error))
            if exchange.endpoint is None:
                self._metrics.rejected(InternalError.code)
            await self._break_off(exchange, InternalError(f"The gateway failed: {type(error).__name__}."))
        finally:
            if kept is not None:
                kept.stop()
            if exchange.endpoint is not None:
                self._count(exchange, exchange.endpoint)
            if exchange.trace is not None:
                traced.end(exchange.trace, exchange, self._clock())
            if self.access_log is not None:
                self._log(exchange, self.access_log)
            if overheard is not None and self.debug_log is not None:
                write_down(exchange, overheard, self.debug_log)

    async def refuse(self, client: Client, error: LlmgateError) -> None:
        """Answer a request that was not read to its end."""
        self._metrics.rejected(error.code or error.type)
        exchange = self._begin(client)
        exchange.status = error.status
        await respond_error(client, error, [(b"x-request-id", exchange.id_bytes)], dialect_of(client.target))
        if exchange.trace is not None:
            traced.end(exchange.trace, exchange, self._clock())
        if self.access_log is not None:
            self._log(exchange, self.access_log)

    def _begin(self, client: Client) -> Exchange:
        headers = sort_request_headers(client.headers)
        request_id = headers.request_id or b"%b%016x" % (self._run_id, next(self._numbers))
        exchange = Exchange(client, headers, request_id, self._clock(), self._policy)
        if self.tracing is not None:
            exchange.trace = self.tracing.begin(headers.passed)
        return exchange

    def _heed(self, exchange: Exchange, request: InferenceRequest) -> None:
        """What the client asks of the gateway itself, or is promised unasked. Raises BadRequest."""
        own, settings = exchange.headers.own, self._settings
        slo = wanted_slo(own, settings.model_slos.get(request.model, settings.slo))
        request.slo = slo if request.kind.generates else None
        exchange.explain = settings.explain and wants_explanation(own)

    async def _attempt(self, exchange: Exchange) -> bool:
        """Try the best endpoint that was not tried. False: it failed before the client saw anything of it, and another
        one is to be tried. Raises when there is none, or the answer had begun. Settled on every way out."""
        charge = self._book(exchange)
        cause, verdict, reason, busy_for = TerminationCause.GATEWAY_ERROR, Verdict.NEUTRAL, "", 0.0
        response: UpstreamResponse | None = None
        failure: str | None = None  # its code, for to keep the error itself would be a cycle
        try:
            response = await self._client.open(*self._upstream_request(exchange, charge.endpoint))
            status = exchange.status = response.status
            if status in RETRYABLE_STATUSES:
                reason = f"answered {status}"
                if status in BUSY_STATUSES:
                    cause, busy_for = TerminationCause.REFUSED, retry_after(response.headers, BUSY_SECONDS)
                else:
                    cause, verdict = TerminationCause.UPSTREAM_ERROR, Verdict.BAD
                if self._may_go_on(exchange, status):
                    self._metrics.retried(charge.endpoint.name, f"status_{status}")
                    return False
            chunk = response.take() or await response.read()
            if chunk.startswith(STREAM_ERROR) and (told := stream_refusal(chunk)) in RETRYABLE_STATUSES:
                if told in BUSY_STATUSES:
                    raise StreamRefused("The engine is full.")
                status, reason = told, f"answered {told} in its stream"
                cause, verdict = TerminationCause.UPSTREAM_ERROR, Verdict.BAD
                if self._may_go_on(exchange, status):
                    self._metrics.retried(charge.endpoint.name, f"status_{status}")
                    return False
            rest = relay(exchange, charge, response, chunk, self._scheduler, self._clock)
            if rest is not None:
                await rest
            if status not in RETRYABLE_STATUSES:
                cause = TerminationCause.COMPLETED
                verdict = Verdict.GOOD if exchange.status < 400 else Verdict.NEUTRAL
            return True
        except UpstreamError as error:
            failure = error.code
            cause, verdict, reason = error.cause, error.verdict, error.message
            if cause is TerminationCause.REFUSED:
                busy_for = BUSY_SECONDS[0]
            if exchange.kept or not self._may_go_on(exchange, error):
                raise
            exchange.failure = error
            self._metrics.retried(charge.endpoint.name, error.code or "")
            return False
        except asyncio.CancelledError:
            cause = TerminationCause.CLIENT_GONE if exchange.client.gone else TerminationCause.SHUTDOWN
            raise
        finally:
            exchange.cause = cause
            if exchange.trace is not None:
                traced.end_attempt(exchange.trace, 0 if response is None else response.status, cause, failure)
            if response is not None:
                response.close()
            health = charge.endpoint.health
            entered = health.entered
            self._scheduler.settle(
                charge,
                cause,
                self._clock(),
                verdict=verdict,
                usage=exchange.usage,
                reason=reason,
                busy_for=busy_for,
            )
            if health.entered != entered and health.state is State.EJECTED:
                self._ejected(charge.endpoint)

    def _book(self, exchange: Exchange) -> Charge:
        """Choose an endpoint and put the request on its account."""
        now = self._clock()
        try:
            tried = [*exchange.tried, *exchange.unable] if exchange.unable else exchange.tried
            decision = self._scheduler.schedule(exchange.request, now, tried)
        except NoReadyEndpoint:
            raise exchange.failure or NoReadyEndpoint("No endpoint is ready; try again shortly.") from None
        self._decisions.made(len(decision.costs), decision.tied)
        if exchange.explain:
            self._scheduler.explain(exchange.request, decision, tried)
        charge = self._scheduler.book(exchange.request, decision, now)
        if not exchange.tried:
            exchange.dispatched = self._clock()
        exchange.policy = self._policy
        exchange.endpoint = decision.endpoint
        if decision.explanation is not exchange.explanation:
            exchange.explanation = decision.explanation
        exchange.tried.append(decision.endpoint)
        return charge

    def _upstream_request(
        self, exchange: Exchange, endpoint: Endpoint
    ) -> tuple[Target, str, bytes, list[Header], bytes, Timeouts]:
        """The arguments of UpstreamClient.open: what the client sent, with the edits that the contract lists."""
        client = exchange.client
        destination, settings = self._destinations[endpoint.name], self._settings
        edits = exchange.edits = edits_for(
            settings.edit_rules, exchange.spec, exchange.request, exchange.fields, client.body, endpoint
        )
        headers = exchange.headers.towards(exchange.id_bytes, destination.credentials)
        if settings.client_address is not None:
            address = settings.client_address.of(client.peer, client.headers)
            headers.append((b"x-forwarded-for", address.encode("latin-1", "replace")))
        if exchange.trace is not None:
            headers = traced.begin_attempt(exchange.trace, exchange, endpoint, destination.target, headers)
        timeouts = settings.model_timeouts.get(exchange.request.model, settings.timeouts)
        body = client.body if edits is None else edits.body
        return destination.target, "POST", client.target, headers, body, timeouts

    def _unable(self, request: InferenceRequest) -> Collection[Endpoint]:
        """Endpoints whose make has no path for this kind of request, as long as there are others."""
        ready = self._scheduler.pool.ready(request.model, self._clock())
        unable = [endpoint for endpoint in ready if request.kind in make_of(endpoint.engine).lacks]
        return unable if len(unable) < len(ready) else ()

    def _may_go_on(self, exchange: Exchange, failure: UpstreamError | int) -> bool:
        """Whether the failed attempt may be repeated elsewhere, and there is such a place."""
        if exchange.begun:
            return False
        now = self._clock()
        ready = self._scheduler.pool.ready(exchange.request.model, now)
        elsewhere = any(endpoint not in exchange.tried and endpoint not in exchange.unable for endpoint in ready)
        return elsewhere and may_try_next(
            failure, attempts=len(exchange.tried), policy=self._settings.retry, budget=self._budget, now=now
        )

    async def _break_off(self, exchange: Exchange, error: LlmgateError) -> None:
        """End an answer that cannot be completed, in a way that no client takes for its end."""
        if exchange.ended:
            return
        if exchange.begun and exchange.endpoint is not None:
            self._metrics.broken(exchange.request.model, exchange.endpoint.name)
        if not exchange.begun:
            exchange.status = error.status
            request_id = (b"x-request-id", exchange.id_bytes)
            await respond_error(exchange.client, error, [request_id], exchange.spec.dialect)
        elif exchange.meter is not None:
            sent = exchange.meter if exchange.editor is None else exchange.editor
            closing = exchange.spec.dialect.closing_event(error, between_events=sent.between_events)
            exchange.client.write(closing, False)
            await exchange.client.drained()
        # else: the server closes the connection, short of the announced length or the last chunk

    def _count(self, exchange: Exchange, endpoint: Endpoint) -> None:
        request, arrived, first_byte = exchange.request, exchange.arrived, exchange.first_byte
        if exchange.explanation is not None:
            compare(exchange, exchange.explanation, self._clock(), self._metrics.objectives)
        self._metrics.request_ended(
            request.model,
            endpoint.name,
            exchange.status,
            duration=self._clock() - arrived,
            ttft=None if first_byte is None else first_byte - arrived,
            overhead=exchange.dispatched - arrived,
            usage=exchange.usage,
            stream=exchange.meter is not None,
            estimated_prompt_tokens=request.prompt_tokens if exchange.spec.prompt else None,
            expected_cached_tokens=request.cached_tokens,
            trace_id=None if exchange.trace is None else exchange.trace.trace_id,
        )

    def _log(self, exchange: Exchange, log: AccessLog) -> None:
        if log.wants(exchange.status):
            log.write(entry_of(exchange, log, self._clock()))
