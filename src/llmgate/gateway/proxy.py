"""The hot path: one inference request from the client to an engine and its answer back.

    read → understand → (schedule → book → open → relay → settle) once or more → count

Nothing in here waits with a charge booked but for the engine or the client, and every way out settles it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from types import MappingProxyType

from llmgate.core.errors import InternalError, LlmgateError, NoReadyEndpoint, ShuttingDown, UpstreamError
from llmgate.core.ledger import Charge
from llmgate.core.retry import BUSY_STATUSES, RETRYABLE_STATUSES, RetryBudget, RetryPolicy, may_try_next
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.gateway.access import entry_of
from llmgate.gateway.client import Client, respond_error
from llmgate.gateway.intake import Intake
from llmgate.gateway.keep_alive import KeptAlive
from llmgate.telemetry.access_log import AccessLog
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, Timeouts, UpstreamClient, UpstreamResponse
from llmgate.wire.forwarded import ClientAddress
from llmgate.wire.headers import Header, RequestHeaders, find, response_headers, retry_after, sort_request_headers
from llmgate.wire.openai import Body, error_event, replace_model
from llmgate.wire.sse import SseMeter, UsageTail, whole_usage

logger = logging.getLogger("llmgate.gateway")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before its answer was complete; seen in metrics only."""

BUSY_SECONDS = (1.0, 30.0)
"""For how long an engine that answered 429 or 503 is passed over: what its Retry-After says, within these."""


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach an endpoint. `credentials` replaces the client's own; None lets the client's pass."""

    target: Target
    credentials: tuple[Header, ...] | None = ()


class Exchange:
    """One client's request and what has become of it so far."""

    request: InferenceRequest
    fields: Body
    endpoint: Endpoint | None = None  # the last one tried
    failure: UpstreamError | None = None  # of the last one
    begun = False  # the head of an answer has gone to the client
    meter: SseMeter | None = None  # of a streamed answer
    status = 0
    dispatched = 0.0
    first_byte: float | None = None
    usage: Usage | None = None
    cause: TerminationCause | None = None  # of the last attempt's end

    def __init__(self, client: Client, headers: RequestHeaders, request_id: bytes, arrived: float) -> None:
        self.client = client
        self.headers = headers
        self.id = request_id.decode()
        self.id_bytes = request_id
        self.arrived = arrived
        self.tried: list[Endpoint] = []


class Proxy:
    """Serves inference requests; `serve` is called with the kind that the path stands for."""

    def __init__(
        self,
        scheduler: Scheduler,
        intake: Intake,
        client: UpstreamClient,
        destinations: Mapping[str, Destination],
        metrics: Metrics,
        *,
        policy_name: str,
        timeouts: Timeouts,
        retry: RetryPolicy,
        model_timeouts: Mapping[str, Timeouts] = MappingProxyType({}),
        keep_alive: float = 0.0,
        client_address: ClientAddress | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._intake = intake
        self._client = client
        self._destinations = destinations
        self._metrics = metrics
        self.access_log: AccessLog | None = None
        self._retry = retry
        self._budget = RetryBudget(retry)
        self.configure(
            policy_name=policy_name,
            timeouts=timeouts,
            retry=retry,
            model_timeouts=model_timeouts,
            keep_alive=keep_alive,
            client_address=client_address,
        )
        self._clock = clock
        self._run_id = b"%016x" % Random().getrandbits(64)  # request ids need to differ, not to be secret
        self._numbers = count()

    def configure(
        self,
        *,
        policy_name: str,
        timeouts: Timeouts,
        retry: RetryPolicy,
        model_timeouts: Mapping[str, Timeouts] = MappingProxyType({}),
        keep_alive: float = 0.0,
        client_address: ClientAddress | None = None,
    ) -> None:
        """For requests from now on. `model_timeouts`, by public model name, go before `timeouts`. `keep_alive`: seconds
        between comments in a stream that has not begun; 0: none. `client_address`: tell engines the client's."""
        self.policy_name = policy_name
        self._policy_header = (b"x-llmgate-policy", policy_name.encode())
        self._timeouts = timeouts
        self._model_timeouts = model_timeouts
        self._keep_alive = keep_alive
        self._client_address = client_address
        if retry != self._retry:
            self._retry = retry
            self._budget = RetryBudget(retry)

    async def serve(self, kind: Kind, client: Client) -> None:
        """Answer the request, whatever happens; drop it the moment the client leaves."""
        if client.gone:
            return
        kept: KeptAlive | None = None
        exchange = self._begin(client)
        try:
            request, exchange.fields = self._intake.understand(kind, client.body, exchange.id, exchange.arrived)
            exchange.request = request
            if request.model in self._intake.tokenizers:
                await self._intake.count(request, exchange.fields)
            self._budget.note_request()
            if self._keep_alive and request.stream:
                exchange.client = kept = KeptAlive(client, self._keep_alive, partial(self._begin_early, exchange))
            while not await self._attempt(exchange):
                pass
        except asyncio.CancelledError:
            if client.gone:
                exchange.status = CLIENT_CLOSED_REQUEST
            else:  # the server ends what has outlived its grace period
                await self._break_off(exchange, ShuttingDown("The gateway is shutting down."))
        except LlmgateError as error:
            if exchange.endpoint is None:
                self._metrics.rejected(error.code or error.type)
            await self._break_off(exchange, error)
        except Exception as error:  # a bug, ours or a third-party router's: the client gets an answer all the same
            logger.exception("request %s failed inside the gateway", exchange.id)
            if exchange.endpoint is None:
                self._metrics.rejected(InternalError.code)
            await self._break_off(exchange, InternalError(f"The gateway failed: {type(error).__name__}."))
        finally:
            if kept is not None:
                kept.stop()
            if exchange.endpoint is not None:
                self._count(exchange, exchange.endpoint)
            if self.access_log is not None:
                self._log(exchange, self.access_log)

    async def refuse(self, client: Client, error: LlmgateError) -> None:
        """Answer a request that was not read to its end."""
        self._metrics.rejected(error.code or error.type)
        exchange = self._begin(client)
        await self._break_off(exchange, error)
        if self.access_log is not None:
            self._log(exchange, self.access_log)

    def _begin(self, client: Client) -> Exchange:
        headers = sort_request_headers(client.headers)
        request_id = headers.request_id or b"%b%016x" % (self._run_id, next(self._numbers))
        return Exchange(client, headers, request_id, self._clock())

    async def _attempt(self, exchange: Exchange) -> bool:
        """Try the best endpoint that was not tried. False: it failed before the client saw anything of it, and another
        one is to be tried. Raises when there is none, or the answer had begun. Settled on every way out."""
        charge = self._book(exchange)
        cause, verdict, reason, busy_for = TerminationCause.GATEWAY_ERROR, Verdict.NEUTRAL, "", 0.0
        response: UpstreamResponse | None = None
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
                await self._relay(exchange, charge, response)
            else:
                await self._relay(exchange, charge, response)
                cause = TerminationCause.COMPLETED
                verdict = Verdict.GOOD if status < 400 else Verdict.NEUTRAL
            return True
        except UpstreamError as error:
            cause, verdict, reason = error.cause, error.verdict, error.message
            if exchange.begun or not self._may_go_on(exchange, error):
                raise
            exchange.failure = error
            self._metrics.retried(charge.endpoint.name, error.code or "")
            return False
        except asyncio.CancelledError:
            cause = TerminationCause.CLIENT_GONE if exchange.client.gone else TerminationCause.SHUTDOWN
            raise
        finally:
            exchange.cause = cause
            if response is not None:
                response.close()
            self._scheduler.settle(
                charge,
                cause,
                self._clock(),
                verdict=verdict,
                usage=exchange.usage,
                reason=reason,
                busy_for=busy_for,
            )

    def _book(self, exchange: Exchange) -> Charge:
        """Choose an endpoint and put the request on its account."""
        now = self._clock()
        try:
            decision = self._scheduler.schedule(exchange.request, now, exchange.tried)
        except NoReadyEndpoint:
            raise exchange.failure or NoReadyEndpoint("No endpoint is ready; try again shortly.") from None
        charge = self._scheduler.book(exchange.request, decision, now)
        if not exchange.tried:
            exchange.dispatched = self._clock()
        exchange.endpoint = decision.endpoint
        exchange.tried.append(decision.endpoint)
        return charge

    def _upstream_request(
        self, exchange: Exchange, endpoint: Endpoint
    ) -> tuple[Target, str, bytes, list[Header], bytes, Timeouts]:
        """The arguments of UpstreamClient.open: what the client sent, with the edits that the contract lists."""
        request, fields, client = exchange.request, exchange.fields, exchange.client
        destination = self._destinations[endpoint.name]
        body = client.body
        served = endpoint.models.get(request.model, request.model)
        if fields.model is not None and fields.model != served:
            body = replace_model(body, served)
        headers = exchange.headers.towards(exchange.id_bytes, destination.credentials)
        if self._client_address is not None:
            address = self._client_address.of(client.peer, client.headers)
            headers.append((b"x-forwarded-for", address.encode("latin-1", "replace")))
        timeouts = self._model_timeouts.get(request.model, self._timeouts)
        return destination.target, "POST", client.target, headers, body, timeouts

    async def _relay(self, exchange: Exchange, charge: Charge, response: UpstreamResponse) -> None:
        """Pass the answer on as it comes. Its head waits for its first byte: until then another endpoint can serve."""
        client = exchange.client
        chunk = await response.read()
        headers = response_headers(response.headers, self._own_headers(exchange, charge.endpoint))
        exchange.first_byte = self._clock()
        exchange.begun = True
        if response.status < 400:
            self._scheduler.answered(charge, exchange.first_byte)
        more = not response.ended
        if (find(response.headers, b"content-type") or b"").startswith(b"text/event-stream"):
            meter = exchange.meter = SseMeter()
            charge.prefill_done()

            def take(piece: bytes) -> bool:
                charge.progress(meter.feed(piece))
                return client.write(piece, True)

            charge.progress(meter.feed(chunk))
            # without its length, if it has one: should it break, there must be room for an error event
            headers = [header for header in headers if header[0] != b"content-length"]
            await self._pass_on(client, response, headers, chunk, take, more)
            exchange.usage = meter.usage() or Usage(charge.request.prompt_tokens, meter.counted_tokens(), counted=True)
        elif more:
            tail = UsageTail()
            tail.keep(chunk)

            def keep(piece: bytes) -> bool:
                tail.keep(piece)
                return client.write(piece, True)

            await self._pass_on(client, response, headers, chunk, keep, more)
            exchange.usage = tail.usage()
        else:
            if not client.respond(response.status, headers, chunk, False):
                await client.drained()
            exchange.usage = whole_usage(chunk)

    def _own_headers(self, exchange: Exchange, endpoint: Endpoint) -> list[Header]:
        return [
            (b"x-request-id", exchange.id_bytes),
            (b"x-llmgate-endpoint", endpoint.name.encode()),
            self._policy_header,
        ]

    def _begin_early(self, exchange: Exchange) -> list[Header] | None:
        """The head of a stream that is kept alive goes out before its engine has answered: no other may, from then."""
        if exchange.endpoint is None:
            return None
        exchange.begun = True
        exchange.meter = SseMeter()
        return [*self._own_headers(exchange, exchange.endpoint), (b"content-type", b"text/event-stream")]

    async def _pass_on(
        self,
        client: Client,
        response: UpstreamResponse,
        headers: list[Header],
        first: bytes,
        take: Callable[[bytes], bool],
        more: bool,
    ) -> None:
        if not client.respond(response.status, headers, first, more):
            await client.drained()
        if more:
            await response.pump(take, client.drained)
            if not client.write(b"", False):
                await client.drained()

    def _may_go_on(self, exchange: Exchange, failure: UpstreamError | int) -> bool:
        """Whether the failed attempt may be repeated elsewhere, and there is such a place."""
        if exchange.begun:
            return False
        now = self._clock()
        ready = self._scheduler.pool.ready(exchange.request.model, now)
        elsewhere = any(endpoint not in exchange.tried for endpoint in ready)
        return elsewhere and may_try_next(
            failure, attempts=len(exchange.tried), policy=self._retry, budget=self._budget, now=now
        )

    async def _break_off(self, exchange: Exchange, error: LlmgateError) -> None:
        """End an answer that cannot be completed, in a way that no client takes for its end."""
        if not exchange.begun:
            exchange.status = error.status
            await respond_error(exchange.client, error, [(b"x-request-id", exchange.id_bytes)])
        elif exchange.meter is not None:
            exchange.client.write(error_event(error, at_line_start=exchange.meter.at_line_start), False)
            await exchange.client.drained()
        # else: the server closes the connection, short of the announced length or the last chunk

    def _count(self, exchange: Exchange, endpoint: Endpoint) -> None:
        request, arrived, first_byte = exchange.request, exchange.arrived, exchange.first_byte
        self._metrics.request_ended(
            request.model,
            endpoint.name,
            exchange.status,
            duration=self._clock() - arrived,
            ttft=None if first_byte is None else first_byte - arrived,
            overhead=exchange.dispatched - arrived,
            usage=exchange.usage,
            stream=exchange.meter is not None,
            estimated_prompt_tokens=None if request.byte_classes is None else request.prompt_tokens,
        )

    def _log(self, exchange: Exchange, log: AccessLog) -> None:
        log.write(entry_of(exchange, log, self.policy_name, self._clock()))
