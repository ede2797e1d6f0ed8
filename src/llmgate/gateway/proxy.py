"""The hot path: one inference request from the client to an engine and its answer back.

    read → understand → (schedule → book → open → relay → settle) once or more → count

Nothing in here waits with a charge booked but for the engine or the client, and every way out settles it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from types import MappingProxyType

from llmgate.core.errors import (
    InternalError,
    LlmgateError,
    NoReadyEndpoint,
    ShuttingDown,
    StreamRefused,
    UpstreamError,
)
from llmgate.core.ledger import Charge
from llmgate.core.retry import BUSY_STATUSES, RETRYABLE_STATUSES, RetryBudget, RetryPolicy, may_try_next
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.gateway.access import entry_of
from llmgate.gateway.client import Client, respond_error
from llmgate.gateway.edits import EditRules, Edits, edits_for
from llmgate.gateway.intake import Intake
from llmgate.gateway.keep_alive import KeptAlive
from llmgate.telemetry.access_log import AccessLog
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, Timeouts, UpstreamClient, UpstreamResponse
from llmgate.wire.engines import STREAM_ERROR, make_of, stream_refusal
from llmgate.wire.event_edits import EventEditor
from llmgate.wire.forwarded import ClientAddress
from llmgate.wire.headers import Header, RequestHeaders, find, response_headers, retry_after, sort_request_headers
from llmgate.wire.kinds import KINDS, KindSpec, dialect_of
from llmgate.wire.openai import Body
from llmgate.wire.sse import SseMeter
from llmgate.wire.usage import UsageTail, whole_usage

logger = logging.getLogger("llmgate.gateway")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before its answer was complete; seen in metrics only."""

BUSY_SECONDS = (1.0, 30.0)
"""For how long an engine that answered 429 or 503 is passed over: what its Retry-After says, within these."""


STREAM_HEADERS = (b"content-length", b"content-type", b"cache-control", b"x-accel-buffering")
"""What an engine says of a stream, and does not say of a whole answer."""

EVERYWHERE = frozenset({Kind.CHAT, Kind.COMPLETION})
"""Kinds that every make of engine takes."""


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach an endpoint. `credentials` replaces the client's own; None lets the client's pass."""

    target: Target
    credentials: tuple[Header, ...] | None = ()


Policy = tuple[str, Header]
"""The name of a policy, and the header that says it."""


class Exchange:
    """One client's request and what has become of it so far."""

    request: InferenceRequest
    fields: Body
    spec: KindSpec
    edits: Edits | None = None  # of the last attempt
    endpoint: Endpoint | None = None  # the last one tried
    failure: UpstreamError | None = None  # of the last one
    begun = False  # the head of an answer has gone to the client
    kept = False  # something of an answer has come: no other endpoint is asked any more
    ended = False  # the last byte of an answer has been handed to the client
    meter: SseMeter | None = None  # of a streamed answer
    editor: EventEditor | None = None  # of the same, if something is changed in it
    unable: Collection[Endpoint] = ()  # engines that have no path for this kind of request
    status = 0
    dispatched = 0.0
    first_byte: float | None = None
    usage: Usage | None = None
    cause: TerminationCause | None = None  # of the last attempt's end

    def __init__(
        self, client: Client, headers: RequestHeaders, request_id: bytes, arrived: float, policy: Policy
    ) -> None:
        self.client = client
        self.policy = policy  # that chooses for it
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
        edit_rules: EditRules = EditRules(),  # noqa: B008  (frozen)
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
            edit_rules=edit_rules,
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
        edit_rules: EditRules = EditRules(),  # noqa: B008  (frozen)
    ) -> None:
        """For requests from now on. `model_timeouts`, by public model name, go before `timeouts`. `keep_alive`: seconds
        between comments in a stream that has not begun; 0: none. `client_address`: tell engines the client's."""
        self._policy = (policy_name, (b"x-llmgate-policy", policy_name.encode()))
        self._timeouts = timeouts
        self._model_timeouts = model_timeouts
        self._keep_alive = keep_alive
        self._client_address = client_address
        self._edit_rules = edit_rules
        if retry != self._retry:
            self._retry = retry
            self._budget = RetryBudget(retry)

    async def serve(self, kind: Kind, client: Client) -> None:
        """Answer the request, whatever happens; drop it the moment the client leaves."""
        if client.gone:
            return
        spec = KINDS[kind]
        kept: KeptAlive | None = None
        exchange = self._begin(client)
        exchange.spec = spec
        try:
            request, exchange.fields = self._intake.understand(
                spec, client.headers, client.body, exchange.id, exchange.arrived
            )
            exchange.request = request
            if kind not in EVERYWHERE:
                exchange.unable = self._unable(request)
            if request.model in self._intake.tokenizers:
                await self._intake.count(request, exchange.fields)
            self._budget.note_request()
            if self._keep_alive and request.stream:
                begin = partial(self._begin_early, exchange)
                exchange.client = kept = KeptAlive(client, self._keep_alive, begin, spec.dialect)
            while not await self._attempt(exchange):
                pass
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
        exchange.status = error.status
        await respond_error(client, error, [(b"x-request-id", exchange.id_bytes)], dialect_of(client.target))
        if self.access_log is not None:
            self._log(exchange, self.access_log)

    def _begin(self, client: Client) -> Exchange:
        headers = sort_request_headers(client.headers)
        request_id = headers.request_id or b"%b%016x" % (self._run_id, next(self._numbers))
        return Exchange(client, headers, request_id, self._clock(), self._policy)

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
                verdict = Verdict.GOOD if exchange.status < 400 else Verdict.NEUTRAL
            return True
        except UpstreamError as error:
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
            tried = [*exchange.tried, *exchange.unable] if exchange.unable else exchange.tried
            decision = self._scheduler.schedule(exchange.request, now, tried)
        except NoReadyEndpoint:
            raise exchange.failure or NoReadyEndpoint("No endpoint is ready; try again shortly.") from None
        charge = self._scheduler.book(exchange.request, decision, now)
        if not exchange.tried:
            exchange.dispatched = self._clock()
        exchange.policy = self._policy
        exchange.endpoint = decision.endpoint
        exchange.tried.append(decision.endpoint)
        return charge

    def _upstream_request(
        self, exchange: Exchange, endpoint: Endpoint
    ) -> tuple[Target, str, bytes, list[Header], bytes, Timeouts]:
        """The arguments of UpstreamClient.open: what the client sent, with the edits that the contract lists."""
        client = exchange.client
        destination = self._destinations[endpoint.name]
        edits = exchange.edits = edits_for(
            self._edit_rules, exchange.spec, exchange.request, exchange.fields, client.body, endpoint
        )
        headers = exchange.headers.towards(exchange.id_bytes, destination.credentials)
        if self._client_address is not None:
            address = self._client_address.of(client.peer, client.headers)
            headers.append((b"x-forwarded-for", address.encode("latin-1", "replace")))
        timeouts = self._model_timeouts.get(exchange.request.model, self._timeouts)
        body = client.body if edits is None else edits.body
        return destination.target, "POST", client.target, headers, body, timeouts

    async def _relay(self, exchange: Exchange, charge: Charge, response: UpstreamResponse) -> None:
        """Pass the answer on as it comes. Its head waits for its first byte: until then another endpoint can serve."""
        client = exchange.client
        chunk = await response.read()
        if chunk.startswith(STREAM_ERROR) and stream_refusal(chunk) in BUSY_STATUSES:
            raise StreamRefused("The engine is full.")
        headers = response_headers(response.headers, self._own_headers(exchange, charge.endpoint))
        exchange.first_byte = self._clock()
        exchange.kept = True
        if response.status < 400:
            self._scheduler.answered(charge, exchange.first_byte)
        edits = exchange.edits
        content_type = (find(response.headers, b"content-type") or b"").lower()
        if content_type.startswith(b"text/event-stream"):
            meter = SseMeter(exchange.spec.usage_at_start)
            charge.prefill_done()
            if edits is not None and edits.assembly is not None:
                await self._put_together(exchange, charge, response, headers, chunk, meter, edits)
                return
            exchange.meter = meter
            take = self._stream_taker(exchange, charge, meter)
            # without its length, if it has one: should it break, there must be room for an error event
            headers = [header for header in headers if header[0] != b"content-length"]
            charge.progress(meter.feed(chunk))
            if exchange.editor is not None:
                chunk = exchange.editor.feed(chunk)
            await self._pass_on(exchange, response, headers, chunk, take)
            spec, request = exchange.spec, charge.request
            exchange.usage = meter.usage() or Usage(
                request.prompt_tokens if spec.prompt else 0, meter.counted_tokens(spec.framing), counted=True
            )
        elif edits is not None and edits.answer and content_type.startswith(b"application/json"):
            await self._pass_on_edited(exchange, response, headers, chunk, edits)
        elif not response.ended:
            tail = UsageTail()
            tail.keep(chunk)

            def keep(piece: bytes) -> bool:
                tail.keep(piece)
                return client.write(piece, True)

            await self._pass_on(exchange, response, headers, chunk, keep)
            exchange.usage = tail.usage()
        else:
            exchange.begun = exchange.ended = True
            client.respond(response.status, headers, chunk, False)
            exchange.usage = whole_usage(chunk)

    def _own_headers(self, exchange: Exchange, endpoint: Endpoint) -> list[Header]:
        return [
            (b"x-request-id", exchange.id_bytes),
            (b"x-llmgate-endpoint", endpoint.name.encode()),
            exchange.policy[1],
        ]

    def _begin_early(self, exchange: Exchange) -> list[Header] | None:
        """The head of a stream that is kept alive goes out before its engine has answered: no other may, from then."""
        if exchange.endpoint is None:
            return None
        exchange.begun = True
        exchange.meter = SseMeter()
        return [*self._own_headers(exchange, exchange.endpoint), (b"content-type", b"text/event-stream")]

    def _stream_taker(self, exchange: Exchange, charge: Charge, meter: SseMeter) -> Callable[[bytes], bool]:
        client, edits = exchange.client, exchange.edits
        if edits is None or not edits.answer:

            def take(piece: bytes) -> bool:
                charge.progress(meter.feed(piece))
                return client.write(piece, True)

            return take
        editor = exchange.editor = EventEditor(edits.answer)

        def take_edited(piece: bytes) -> bool:
            charge.progress(meter.feed(piece))
            return client.write(editor.feed(piece), True)

        return take_edited

    async def _put_together(
        self,
        exchange: Exchange,
        charge: Charge,
        response: UpstreamResponse,
        headers: list[Header],
        first: bytes,
        meter: SseMeter,
        edits: Edits,
    ) -> None:
        """A stream that the client did not ask for: it gets the answer that the stream makes, at its end."""
        client, assembly = exchange.client, edits.assembly
        assert assembly is not None

        def take(piece: bytes) -> bool:
            charge.progress(meter.feed(piece))
            assembly.feed(piece)
            return True

        try:
            take(first)
            await response.pump(take, client.drained)
            exchange.status, body = assembly.finish()
        except UpstreamError:
            exchange.kept = False  # the client has seen nothing of it: another endpoint may be asked
            raise
        exchange.usage = whole_usage(body)
        headers = [header for header in headers if header[0] not in STREAM_HEADERS]
        headers.append((b"content-type", b"application/json"))
        self._send_whole(exchange, headers, body, edits)

    async def _pass_on_edited(
        self, exchange: Exchange, response: UpstreamResponse, headers: list[Header], first: bytes, edits: Edits
    ) -> None:
        """An answer in which something is changed: its length is known only when all of it is."""
        pieces = [first]

        def keep(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        try:
            await response.pump(keep, exchange.client.drained)
        except UpstreamError:
            exchange.kept = False  # the client has seen nothing of it: another endpoint may be asked
            raise
        body = b"".join(pieces)
        exchange.usage = whole_usage(body)
        self._send_whole(exchange, headers, body, edits)

    def _send_whole(self, exchange: Exchange, headers: list[Header], body: bytes, edits: Edits) -> None:
        for edit in edits.answer:
            body = edit.change(body)
        headers = [header for header in headers if header[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        exchange.begun = exchange.ended = True
        exchange.client.respond(exchange.status, headers, body, False)

    async def _pass_on(
        self,
        exchange: Exchange,
        response: UpstreamResponse,
        headers: list[Header],
        first: bytes,
        take: Callable[[bytes], bool],
    ) -> None:
        """The answer as it comes: its first bytes, and the rest, which `take` sends on."""
        client, editor = exchange.client, exchange.editor
        exchange.begun, exchange.ended = True, response.ended
        if editor is not None and exchange.ended:
            first += editor.rest()
        if not client.respond(response.status, headers, first, not exchange.ended) and not exchange.ended:
            await client.drained()
        if not exchange.ended:
            await response.pump(take, client.drained)
            exchange.ended = True
            client.write(b"" if editor is None else editor.rest(), False)

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
            failure, attempts=len(exchange.tried), policy=self._retry, budget=self._budget, now=now
        )

    async def _break_off(self, exchange: Exchange, error: LlmgateError) -> None:
        """End an answer that cannot be completed, in a way that no client takes for its end."""
        if exchange.ended:
            return
        if not exchange.begun:
            exchange.status = error.status
            request_id = (b"x-request-id", exchange.id_bytes)
            await respond_error(exchange.client, error, [request_id], exchange.spec.dialect)
        elif exchange.meter is not None:
            sent = exchange.meter if exchange.editor is None else exchange.editor
            closing = exchange.spec.dialect.closing_event(error, at_line_start=sent.at_line_start)
            exchange.client.write(closing, False)
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
        log.write(entry_of(exchange, log, self._clock()))
