"""The gateway's hot path in virtual time: what gateway/proxy.py does, with the same Scheduler and retry rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial

from llmgate.core.errors import (
    ConnectFailed,
    ConnectionLost,
    FirstByteTimeout,
    LlmgateError,
    Truncated,
    UpstreamError,
)
from llmgate.core.ledger import Charge
from llmgate.core.retry import RetryBudget, may_try_next
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, InferenceRequest, Kind, TerminationCause, Usage, Verdict
from llmgate.engines.engine import Engine
from llmgate.engines.request import EngineEvent, EngineRequest, EventKind
from llmgate.sim.agenda import ENGINE, Agenda
from llmgate.sim.flight import Flight, Host
from llmgate.sim.keys import chain_keys, prompt_bytes
from llmgate.sim.kv_events import prompt_blocks
from llmgate.sim.record import Recorder
from llmgate.sim.settings import Settings
from llmgate.workloads.types import TraceRequest

TICK = 1e-9
"""Seconds: what an engine that did nothing when it was due is given before it is asked again. Sums of floats taken in
another order differ in their last bits."""

NOT_SERVED = "no endpoint was ready"
REFUSED, LOST, BROKEN, LATE = "connection refused", "engine lost", "broken off", "no first byte in time"
TOO_LONG = "does not fit the engine"


class Shell:
    """Serves requests as the gateway does, and is the `World` that an all-seeing policy looks at."""

    def __init__(
        self,
        scheduler: Scheduler,
        hosts: dict[Endpoint, Host],
        recorder: Recorder,
        agenda: Agenda,
        settings: Settings,
        ended: Callable[[int, float], None],
    ) -> None:
        self._scheduler = scheduler
        self._hosts = hosts
        self._recorder = recorder
        self._agenda = agenda
        self._settings = settings
        self._ended = ended  # called with the request's index and the time, for each request once
        self._budget = RetryBudget(settings.retry)
        self._flights: dict[int, Flight] = {}
        self.failures: Counter[str] = Counter()

    # The world --------------------------------------------------------------------------------------------------------

    def engine(self, endpoint: Endpoint) -> Engine:
        return self._hosts[endpoint].engine

    def open_requests(self, endpoint: Endpoint) -> Collection[EngineRequest]:
        return [flight.engine_request for flight in self._hosts[endpoint].open.values()]

    def engine_request(self, request: InferenceRequest) -> EngineRequest:
        return self._flights[int(request.id)].engine_request

    # A request --------------------------------------------------------------------------------------------------------

    def arrive(self, index: int, trace: TraceRequest, model: str, estimated_tokens: int, now: float) -> None:
        """A client's request has come."""
        router, scheduler = self._scheduler.router, self._scheduler
        block_tokens = scheduler.block_tokens(model) if router.needs_prefix else None
        request = InferenceRequest(
            id=str(index),
            kind=Kind.CHAT,
            model=model,
            stream=True,
            prompt_tokens=estimated_tokens,
            expected_output_tokens=scheduler.expect_output(
                model, Kind.CHAT, trace.max_tokens, estimated_tokens, trace.tenant
            ),
            max_tokens=trace.max_tokens,
            prompt_bytes=prompt_bytes(trace.prompt_tokens),
            prefix=chain_keys(trace) if router.needs_prefix else (),
            session=trace.session if router.needs_session else None,
            blocks=prompt_blocks(trace, block_tokens) if block_tokens else (),
            block_tokens=block_tokens or 0,
            tenant=trace.tenant,
        )
        engine_request = EngineRequest(
            index, trace.prompt_tokens, trace.output_tokens, trace.blocks, trace.block_tokens, trace.priority
        )
        self._recorder.arrived[index] = now
        self._budget.note_request()
        flight = self._flights[index] = Flight(index, now, request, engine_request)
        try:
            scheduler.admit(model, now)
        except LlmgateError:
            self._fail(flight, NOT_SERVED, now)
        else:
            self._send(flight, now)

    def _send(self, flight: Flight, now: float, reason: str = NOT_SERVED) -> None:
        """To the best endpoint that was not tried; if it cannot be reached, to the next. `reason`: why it failed so
        far, for the case that there is none."""
        scheduler = self._scheduler
        self.catch_up(now)
        while True:
            try:
                decision = scheduler.schedule(flight.request, now, flight.tried)
            except LlmgateError:
                self._fail(flight, reason, now)
                return
            charge = flight.charge = scheduler.book(flight.request, decision, now)
            flight.tried.append(decision.endpoint)
            host = self._hosts[decision.endpoint]
            if host.serves_from <= now:
                host.take(flight, now)
                self.wake(host)
                late = partial(self._first_byte_is_late, flight, charge)
                self._agenda.enter(now + self._settings.first_byte_timeout, late)
                return
            failure, reason = ConnectFailed("refused"), REFUSED
            self._settle_failed(charge, failure, now)
            if not self._may_go_on(flight, failure, now):
                self._fail(flight, reason, now)
                return

    def _try_elsewhere(self, flight: Flight, failure: UpstreamError, reason: str, now: float) -> None:
        """Its engine failed it before the answer began."""
        assert flight.charge is not None
        self._settle_failed(flight.charge, failure, now)
        if self._may_go_on(flight, failure, now):
            self._send(flight, now, reason)
        else:
            self._fail(flight, reason, now)

    def _settle_failed(self, charge: Charge, failure: UpstreamError, now: float) -> None:
        self._scheduler.settle(charge, failure.cause, now, verdict=failure.verdict, reason=failure.message)

    def _may_go_on(self, flight: Flight, failure: UpstreamError, now: float) -> bool:
        ready = self._scheduler.pool.ready(flight.request.model, now)
        return any(endpoint not in flight.tried for endpoint in ready) and may_try_next(
            failure, attempts=len(flight.tried), policy=self._settings.retry, budget=self._budget, now=now
        )

    def _first_byte_is_late(self, flight: Flight, charge: Charge, now: float) -> None:
        if charge.settled or flight.answered:
            return
        self.catch_up(now)
        host = flight.host
        if charge.settled or flight.answered or host is None:
            return
        host.engine.abort(flight.engine_request, now)
        host.drop(flight)
        self.wake(host)
        self._try_elsewhere(flight, FirstByteTimeout("no first byte in time"), LATE, now)

    def _fail(self, flight: Flight, reason: str, now: float) -> None:
        self.failures[reason] += 1
        self._end(flight, now)

    def _end(self, flight: Flight, at: float) -> None:
        index, recorder = flight.index, self._recorder
        recorder.ended[index] = at
        recorder.attempts[index] = len(flight.tried)
        del self._flights[index]
        self._ended(index, at)

    # Engines ----------------------------------------------------------------------------------------------------------

    def catch_up(self, now: float) -> None:
        """Let every engine come to `now`, and the gateway hear of it: as it would have, chunk by chunk."""
        for host in self._hosts.values():
            if host.open:
                self.advance(host, now)
                if host.decoding:
                    host.show_progress()
            if host.reading_due <= now:
                host.show_reading()
            host.show_cache(now)

    def advance(self, host: Host, now: float) -> None:
        if events := host.engine.advance(now):
            self._hear(host, events, now)
            self.wake(host)

    def wake(self, host: Host, earliest: float = 0.0) -> None:
        """Enter the engine's next event, unless it is on the agenda."""
        due = max(host.engine.next_event(), earliest)
        if due != host.due:
            host.due = due
            if due < float("inf"):
                self._agenda.enter(due, partial(self._engine_is_due, host, due), ENGINE)

    def lose(self, host: Host, now: float, *, serves_from: float) -> None:
        """Its process has died, with all that was open there."""
        self.catch_up(now)
        host.serves_from = serves_from
        host.engine.reset(now)
        if host.feed is not None:
            host.feed.lose()
        host.due = float("inf")
        for flight in list(host.open.values()):
            host.drop(flight)
            if flight.answered:
                assert flight.charge is not None
                self._settle_failed(flight.charge, Truncated("the engine was lost"), now)
                self._fail(flight, BROKEN, now)
            else:
                self._try_elsewhere(flight, ConnectionLost("the engine was lost"), LOST, now)

    def _engine_is_due(self, host: Host, due: float, now: float) -> None:
        if host.due != due:
            return  # something has come in between, and a later entry stands for it
        host.due = float("inf")
        if events := host.engine.advance(now):
            self._hear(host, events, now)
            self.wake(host)
        else:
            self.wake(host, now + TICK)

    def _hear(self, host: Host, events: Sequence[EngineEvent], now: float) -> None:
        for event in events:
            flight = host.open.get(event.request.id)
            if flight is None or flight.charge is None:
                continue  # it was aborted in its last step
            if event.kind is EventKind.FIRST_TOKEN:
                self._first_token(host, flight, flight.charge, event, now)
            elif event.kind is EventKind.FINISHED:
                self._finished(host, flight, flight.charge, event, now)
            elif event.kind is EventKind.REJECTED:
                host.drop(flight)
                self._scheduler.settle(flight.charge, TerminationCause.COMPLETED, now)  # a 400 with an explanation
                self._fail(flight, TOO_LONG, event.at)
            else:
                host.preempted += 1

    def _first_token(self, host: Host, flight: Flight, charge: Charge, event: EngineEvent, now: float) -> None:
        if flight.answered:
            return
        flight.answered = True
        self._scheduler.answered(charge, now)
        charge.prefill_done()
        charge.progress(1)
        flight.seen_tokens = 1
        host.decoding[flight.index] = flight
        recorder, index = self._recorder, flight.index
        recorder.first_token[index] = event.at
        recorder.engine[index] = host.number
        recorder.cached[index] = event.cached_tokens

    def _finished(self, host: Host, flight: Flight, charge: Charge, event: EngineEvent, now: float) -> None:
        host.drop(flight)
        real = flight.engine_request
        usage = Usage(real.prompt_tokens, real.output_tokens, event.cached_tokens)
        self._scheduler.settle(charge, TerminationCause.COMPLETED, now, verdict=Verdict.GOOD, usage=usage)
        self._recorder.ok[flight.index] = True
        self._end(flight, event.at)
