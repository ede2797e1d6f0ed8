"""The hot path: one inference request from the client to an engine and its answer back.

    read → understand → (schedule → book → open → relay → settle) once or more → count

Nothing in here waits with a charge booked but for the engine or the client, and every way out settles it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import SystemRandom

from llmgate.core.errors import LlmgateError, NoReadyEndpoint, ShuttingDown, UpstreamError
from llmgate.core.ledger import Charge
from llmgate.core.retry import BUSY_STATUSES, RETRYABLE_STATUSES, RetryBudget, RetryPolicy, may_try_next
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.gateway.asgi import Receive, Scope, Send, respond_error
from llmgate.gateway.intake import ClientGone, Intake
from llmgate.telemetry.metrics import Metrics
from llmgate.upstream.base import Target, Timeouts, UpstreamClient, UpstreamResponse
from llmgate.wire.headers import REQUEST_ID, Header, find, request_headers, response_headers
from llmgate.wire.openai import Body, error_event, replace_model
from llmgate.wire.sse import SseMeter, UsageTail

logger = logging.getLogger("llmgate.gateway")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before its answer was complete; seen in metrics only."""


@dataclass(frozen=True, slots=True)
class Destination:
    """How to reach an endpoint. `credentials` replaces the client's own; None lets the client's pass."""

    target: Target
    credentials: tuple[Header, ...] | None = ()


class Exchange:
    """One client's request and what has become of it so far."""

    __slots__ = (
        "arrived",
        "attempts",
        "begun",
        "body",
        "client_gone",
        "dispatched",
        "endpoint",
        "fields",
        "first_byte",
        "id",
        "is_sse",
        "meter",
        "path",
        "request",
        "scope",
        "send",
        "status",
        "tried",
        "usage",
    )

    def __init__(self, scope: Scope, send: Send, request_id: str, path: bytes, arrived: float) -> None:
        self.scope = scope
        self.send = send
        self.id = request_id
        self.path = path
        self.arrived = arrived
        self.request: InferenceRequest | None = None
        self.fields: Body | None = None
        self.body = b""
        self.tried: list[Endpoint] = []
        self.endpoint: Endpoint | None = None  # the last one tried
        self.attempts = 0
        self.begun = False  # the head of an answer has gone to the client
        self.is_sse = False
        self.meter: SseMeter | None = None
        self.client_gone = False
        self.status = 0
        self.dispatched = 0.0
        self.first_byte: float | None = None
        self.usage: Usage | None = None


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
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._intake = intake
        self._client = client
        self._destinations = destinations
        self._metrics = metrics
        self._policy_header = (b"x-llmgate-policy", policy_name.encode())
        self._timeouts = timeouts
        self._retry = retry
        self._budget = RetryBudget(retry)
        self._clock = clock
        self._random = SystemRandom()

    async def serve(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        given = find(scope["headers"], b"x-request-id")
        request_id = (
            given.decode() if given and REQUEST_ID.fullmatch(given) else f"{self._random.getrandbits(128):032x}"
        )
        query = scope["query_string"]
        path: bytes = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        exchange = Exchange(scope, send, request_id, path, self._clock())
        try:
            exchange.body = await self._intake.read(scope, receive)
            exchange.request, exchange.fields = await self._intake.understand(
                kind, exchange.body, request_id, exchange.arrived
            )
            await self._with_watcher(exchange, receive)
        except ClientGone:
            exchange.status = CLIENT_CLOSED_REQUEST
        except LlmgateError as error:
            exchange.status = error.status
            if exchange.endpoint is None:
                self._metrics.rejected(error.code or error.type)
            await respond_error(send, error, [(b"x-request-id", request_id.encode())])
        finally:
            self._count(exchange)

    async def _with_watcher(self, exchange: Exchange, receive: Receive) -> None:
        """Serve the request, and drop it the moment the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.get_running_loop().create_task(_cancel_when_gone(exchange, receive, task))
        try:
            await self._dispatch(exchange)
        except asyncio.CancelledError:
            if exchange.client_gone:
                task.uncancel()
                exchange.status = CLIENT_CLOSED_REQUEST
                return
            # the server ends what has outlived its grace period
            await self._break_off(exchange, ShuttingDown("The gateway is shutting down."))
        finally:
            watcher.cancel()

    async def _dispatch(self, exchange: Exchange) -> None:
        """Try endpoints, best first, until one answers. Raises the last failure if none does."""
        scheduler, request = self._scheduler, exchange.request
        assert request is not None
        self._budget.note_request()
        failure: UpstreamError | None = None
        while True:
            now = self._clock()
            try:
                decision = scheduler.schedule(request, now, exchange.tried)
            except NoReadyEndpoint:
                raise failure or NoReadyEndpoint("No endpoint is ready; try again shortly.") from None
            charge = scheduler.book(request, decision, now)
            exchange.endpoint = decision.endpoint
            exchange.attempts += 1
            if exchange.attempts == 1:
                exchange.dispatched = now
            try:
                answered = await self._attempt(exchange, charge)
            except UpstreamError as error:
                if exchange.begun:
                    await self._break_off(exchange, error)
                    return
                if not self._may_go_on(exchange, error):
                    raise
                failure = error
                self._metrics.retried(decision.endpoint.name, error.code or "")
            else:
                if answered:
                    return
                self._metrics.retried(decision.endpoint.name, f"status_{exchange.status}")
            exchange.tried.append(decision.endpoint)

    async def _attempt(self, exchange: Exchange, charge: Charge) -> bool:
        """One try at one endpoint, settled on every way out. False: its answer was set aside to try another one."""
        endpoint = charge.endpoint
        cause, verdict, reason = TerminationCause.GATEWAY_ERROR, Verdict.NEUTRAL, ""
        response: UpstreamResponse | None = None
        try:
            response = await self._open(exchange, endpoint)
            status = exchange.status = response.status
            if status in RETRYABLE_STATUSES:
                busy = status in BUSY_STATUSES
                cause = TerminationCause.REFUSED if busy else TerminationCause.UPSTREAM_ERROR
                verdict, reason = Verdict.NEUTRAL if busy else Verdict.BAD, f"answered {status}"
                if self._may_go_on(exchange, status):
                    return False
                await self._relay(exchange, charge, response)
            else:
                await self._relay(exchange, charge, response)
                cause = TerminationCause.COMPLETED
                verdict = Verdict.GOOD if status < 400 else Verdict.NEUTRAL
            return True
        except UpstreamError as error:
            cause, verdict, reason = error.cause, error.verdict, error.message
            raise
        except asyncio.CancelledError:
            cause = TerminationCause.CLIENT_GONE if exchange.client_gone else TerminationCause.SHUTDOWN
            verdict = Verdict.NEUTRAL
            raise
        finally:
            if response is not None:
                response.close()
            self._scheduler.settle(charge, cause, self._clock(), verdict=verdict, usage=exchange.usage, reason=reason)

    async def _open(self, exchange: Exchange, endpoint: Endpoint) -> UpstreamResponse:
        request, fields = exchange.request, exchange.fields
        assert request is not None
        assert fields is not None
        destination = self._destinations[endpoint.name]
        body = exchange.body
        served = endpoint.models.get(request.model, request.model)
        if fields.model is not None and fields.model != served:
            body = replace_model(body, served)
        headers = request_headers(exchange.scope["headers"], exchange.id.encode(), destination.credentials)
        return await self._client.open(destination.target, "POST", exchange.path, headers, body, self._timeouts)

    async def _relay(self, exchange: Exchange, charge: Charge, response: UpstreamResponse) -> None:
        """Pass the answer on as it comes. Its head waits for its first byte: until then another endpoint can serve."""
        send = exchange.send
        chunk = await response.read()
        own = [
            (b"x-request-id", exchange.id.encode()),
            (b"x-llmgate-endpoint", charge.endpoint.name.encode()),
            self._policy_header,
        ]
        content_type = find(response.headers, b"content-type") or b""
        exchange.first_byte = self._clock()
        exchange.begun = True
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": response_headers(response.headers, own),
            }
        )
        if content_type.startswith(b"text/event-stream"):
            meter = exchange.meter = SseMeter()
            exchange.is_sse = True
            charge.prefill_done()
            while chunk:
                charge.progress(meter.feed(chunk))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await response.read()
            exchange.usage = meter.usage() or Usage(charge.request.prompt_tokens, meter.counted_tokens(), counted=True)
            await send({"type": "http.response.body", "body": b""})
        else:
            tail = UsageTail()
            while chunk:
                tail.keep(chunk)
                following = await response.read()
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(following)})
                chunk = following
            exchange.usage = tail.usage()

    def _may_go_on(self, exchange: Exchange, failure: UpstreamError | int) -> bool:
        """Whether the failed attempt may be repeated elsewhere, and there is such a place."""
        assert exchange.request is not None
        now = self._clock()
        ready = self._scheduler.pool.ready(exchange.request.model, now)
        elsewhere = any(e is not exchange.endpoint and e not in exchange.tried for e in ready)
        return elsewhere and may_try_next(
            failure, attempts=exchange.attempts, policy=self._retry, budget=self._budget, now=now
        )

    async def _break_off(self, exchange: Exchange, error: LlmgateError) -> None:
        """End an answer that cannot be completed, in a way that no client takes for its end."""
        if not exchange.begun:
            exchange.status = error.status
            await respond_error(exchange.send, error, [(b"x-request-id", exchange.id.encode())])
        elif exchange.meter is not None:
            event = error_event(error, at_line_start=exchange.meter.at_line_start)
            await exchange.send({"type": "http.response.body", "body": event})
        # else: the server closes the connection, short of the announced length or the last chunk

    def _count(self, exchange: Exchange) -> None:
        if exchange.request is None or exchange.endpoint is None:
            return
        now = self._clock()
        self._metrics.request_ended(
            exchange.request.model,
            exchange.endpoint.name,
            exchange.status,
            duration=now - exchange.arrived,
            ttft=None if exchange.first_byte is None else exchange.first_byte - exchange.arrived,
            overhead=exchange.dispatched - exchange.arrived,
            usage=exchange.usage,
            stream=exchange.is_sse,
            estimated_prompt_tokens=None if exchange.request.byte_classes is None else exchange.request.prompt_tokens,
        )


async def _cancel_when_gone(exchange: Exchange, receive: Receive, task: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.client_gone = True
    task.cancel()
