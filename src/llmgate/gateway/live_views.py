"""One moment of the gateway as JSON: what the dashboard and `llmgate top` show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, Field

from llmgate.core.gpu import GpuHealth, GpuReading
from llmgate.core.health import State
from llmgate.core.scheduler import Decision
from llmgate.core.types import Endpoint
from llmgate.gateway.admin_views import EngineGauges, InFlight
from llmgate.telemetry.rates import Point, Recent


class RatesView(BaseModel):
    """Rates are per second, over 10 s; percentiles and ratios over 30 s. Null: of no request, or nobody tells."""

    requests: float = Field(description="that ended")
    errors: float = Field(description="of those answered 5xx or broken off")
    prompt_tokens: float = Field(description="by the engine's own counter if it has one, else of requests that ended")
    output_tokens: float
    ttft_p50: float | None = Field(description="seconds, of streamed answers")
    ttft_p99: float | None
    prefix_hit_ratio: float | None = Field(description="cached part of the prompts, as the engine reports it")

    @classmethod
    def of(cls, recent: Recent) -> RatesView:
        return cls(**recent._asdict())


class GpuView(BaseModel):
    """Null is what the driver does not tell."""

    gpu: str = Field(description="index on its node, with that of a MIG instance: 0, 0:1")
    name: str
    utilization: float | None = Field(description="part of the time in which a kernel ran, 0 to 1")
    memory_used: int | None = Field(description="bytes")
    memory_total: int | None
    temperature: float | None = Field(description="°C")
    power: float | None = Field(description="watts")
    state: str = Field(description="ok, degraded or failed")
    reason: str = Field(description="why it is not ok; empty when it is")

    @classmethod
    def of(cls, reading: GpuReading, health: GpuHealth) -> GpuView:
        return cls(
            gpu=reading.gpu.label,
            name=reading.gpu.name,
            utilization=reading.utilization,
            memory_used=reading.memory_used,
            memory_total=reading.memory_total,
            temperature=reading.temperature,
            power=reading.power,
            state=health.state.value,
            reason=health.reason,
        )


class LiveEndpoint(BaseModel):
    name: str
    models: list[str]
    engine: str | None
    gpu: str | None = Field(description="as configured")
    state: State
    reason: str = Field(description="why it is not up; empty when it is")
    ejected_seconds: float | None = Field(description="time left until an ejected endpoint gets its trial request")
    draining: bool
    in_flight: InFlight
    gauges: EngineGauges | None = Field(description="null: none was ever read")
    rates: RatesView
    gpus: list[GpuView] = Field(description="those of this machine that it runs on")

    @classmethod
    def of(
        cls, endpoint: Endpoint, recent: Recent, gpus: Sequence[tuple[GpuReading, GpuHealth]], now: float
    ) -> LiveEndpoint:
        health, load, metrics = endpoint.health, endpoint.load, endpoint.metrics
        return cls(
            name=endpoint.name,
            models=list(endpoint.models),
            engine=endpoint.engine,
            gpu=endpoint.spec.gpu,
            state=health.state,
            reason=health.reason,
            ejected_seconds=max(health.until - now, 0.0) if health.state is State.EJECTED else None,
            draining=endpoint.draining,
            in_flight=InFlight(
                requests=load.requests, prefill_tokens=load.prefill_tokens, decode_tokens=load.decode_tokens
            ),
            gauges=EngineGauges.of(metrics, now) if metrics else None,
            rates=RatesView.of(recent),
            gpus=[GpuView.of(*each) for each in gpus],
        )


class TotalsView(BaseModel):
    endpoints: int
    ready: int = Field(description="endpoints that are up and not draining")
    in_flight: InFlight
    running: int | None = Field(description="requests in the engines' batches; null: no engine tells")
    waiting: int | None = Field(description="requests in the engines' own queues; null: no engine tells")
    rejected: float = Field(description="requests a second that reached no endpoint")
    rates: RatesView

    @classmethod
    def of(cls, endpoints: Sequence[LiveEndpoint], recent: Recent, rejected: float) -> TotalsView:
        loads = [endpoint.in_flight for endpoint in endpoints]
        gauges = [endpoint.gauges for endpoint in endpoints if endpoint.gauges and endpoint.gauges.fresh]
        running = [each.running for each in gauges if each.running is not None]
        waiting = [each.waiting for each in gauges if each.waiting is not None]
        return cls(
            endpoints=len(endpoints),
            ready=sum(endpoint.state is State.UP and not endpoint.draining for endpoint in endpoints),
            in_flight=InFlight(
                requests=sum(load.requests for load in loads),
                prefill_tokens=sum(load.prefill_tokens for load in loads),
                decode_tokens=sum(load.decode_tokens for load in loads),
            ),
            running=sum(running) if running else None,
            waiting=sum(waiting) if waiting else None,
            rejected=rejected,
            rates=RatesView.of(recent),
        )


class BriefDecision(BaseModel):
    """In full at /api/decisions."""

    request_id: str
    age_seconds: float
    model: str
    prompt_tokens: int
    cached_tokens: int = Field(description="of those, leading ones that the endpoint is thought to hold")
    endpoint: str = Field(description="the chosen one")
    cost: float | None = Field(description="its cost, in the policy's own unit; null: not finite")
    candidates: int
    tied: int = Field(description="candidates that shared the lowest cost")

    @classmethod
    def of(cls, decision: Decision, now: float) -> BriefDecision:
        cost = decision.costs[decision.candidates.endpoints.index(decision.endpoint)]
        return cls(
            request_id=decision.request_id,
            age_seconds=max(now - decision.at, 0.0),
            model=decision.model,
            prompt_tokens=decision.prompt_tokens,
            cached_tokens=decision.cached_tokens,
            endpoint=decision.endpoint.name,
            cost=cost if math.isfinite(cost) else None,
            candidates=len(decision.costs),
            tied=decision.tied,
        )


class HistoryView(BaseModel):
    """Up to two minutes, oldest first, a second apart."""

    in_flight: list[float]
    waiting: list[float]
    requests: list[float] = Field(description="per second")
    output_tokens: list[float] = Field(description="per second")
    ttft_p50: list[float | None] = Field(description="seconds, of all endpoints together; of one it is null")

    @classmethod
    def of(cls, points: Sequence[Point]) -> HistoryView:
        columns = zip(*points, strict=True) if points else ((),) * len(Point._fields)
        return cls(**dict(zip(Point._fields, map(list, columns), strict=True)))


class HistoriesView(BaseModel):
    totals: HistoryView
    endpoints: dict[str, HistoryView]


class GatewayView(BaseModel):
    version: str
    policy: str
    uptime_seconds: float
    draining: bool = Field(description="about to stop")
    host: str = Field(description="of the data port, as configured")
    port: int
    tls: bool


class Snapshot(BaseModel):
    time: float = Field(description="Unix time, seconds")
    gateway: GatewayView
    totals: TotalsView
    endpoints: list[LiveEndpoint]
    decisions: list[BriefDecision] = Field(description="the last ones, newest first")
    history: HistoriesView | None = Field(description="null but in the first of a stream and at /api/snapshot")
