"""What the admin API says, as types: the OpenAPI document is made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from llmgate.core.explain import Explanation, Option, Why
from llmgate.core.health import State
from llmgate.core.scheduler import Decision
from llmgate.core.slo import Prediction
from llmgate.core.types import Endpoint, EndpointMetrics


class InFlight(BaseModel):
    """What the gateway has sent to the endpoint and not had back."""

    requests: int
    prefill_tokens: int = Field(description="prompt tokens of requests whose answer has not begun")
    decode_tokens: int = Field(description="output tokens still expected")


class EngineGauges(BaseModel):
    """The engine's own last reading; null is what it does not report."""

    age_seconds: float
    fresh: bool = Field(description="false: too old to go by; routing ignores it")
    running: int | None
    waiting: int | None = Field(description="requests in the engine's own queue")
    kv_usage: float | None = Field(description="used part of the KV cache, 0 to 1")
    kv_capacity_tokens: int | None
    max_running: int | None = Field(description="requests that it runs at once; more of them wait")

    @classmethod
    def of(cls, metrics: EndpointMetrics, now: float) -> EngineGauges:
        return cls(
            age_seconds=max(now - metrics.at, 0.0),
            fresh=metrics.fresh(now),
            running=metrics.running,
            waiting=metrics.waiting,
            kv_usage=metrics.kv_usage,
            kv_capacity_tokens=metrics.kv_capacity_tokens,
            max_running=metrics.max_running,
        )


class EndpointView(BaseModel):
    name: str
    url: str
    engine: str | None = Field(description="null: not detected yet")
    models: Mapping[str, str] = Field(description="public name to the name that the engine knows")
    aliases: Mapping[str, list[str]] = Field(description="public name to its aliases")
    precisions: Mapping[str, str] = Field(description="public name to the stated precision")
    weight: float
    effective_weight: float = Field(description="less than the weight while it starts slowly")
    labels: Mapping[str, str]
    gpu: str | None
    node: str | None
    gpus: Sequence[int | str] = Field(description="of the node: indices or UUIDs")
    state: State
    reason: str = Field(description="why it is not up; empty when it is")
    ejected_seconds: float | None = Field(description="time left until an ejected endpoint gets its trial request")
    draining: bool
    in_flight: InFlight
    recent_tokens: float = Field(description="tokens booked lately, fading with a time constant of a minute")
    gauges: EngineGauges | None = Field(description="null: none was ever read")

    @classmethod
    def of(cls, endpoint: Endpoint, now: float, aliases: Mapping[str, str]) -> EndpointView:
        spec, health, load, metrics = endpoint.spec, endpoint.health, endpoint.load, endpoint.metrics
        return cls(
            name=spec.name,
            url=_without_credentials(spec.url),
            engine=endpoint.engine,
            models=endpoint.models,
            aliases={
                model: names
                for model in endpoint.models
                if (names := [alias for alias, target in aliases.items() if target == model])
            },
            precisions=spec.precisions,
            weight=spec.weight,
            effective_weight=endpoint.weight,
            labels=spec.labels,
            gpu=spec.gpu,
            node=spec.node,
            gpus=spec.gpus,
            state=health.state,
            reason=health.reason,
            ejected_seconds=max(health.until - now, 0.0) if health.state is State.EJECTED else None,
            draining=endpoint.draining,
            in_flight=InFlight(
                requests=load.requests, prefill_tokens=load.prefill_tokens, decode_tokens=load.decode_tokens
            ),
            recent_tokens=load.recent_tokens,
            gauges=EngineGauges.of(metrics, now) if metrics else None,
        )


class CandidateView(BaseModel):
    endpoint: str
    cost: float | None = Field(description="in the policy's own unit, the lowest wins; null: not finite")
    cached_tokens: int = Field(description="leading prompt tokens that it is thought to hold")
    cached_source: Literal["events", "learnt"] = Field(
        description="by what: its own KV events, or what was routed there"
    )


class PredictionView(BaseModel):
    """Seconds."""

    ttft: float = Field(description="from the decision to the first token")
    tpot: float = Field(description="from token to token")

    @classmethod
    def of(cls, prediction: Prediction) -> PredictionView:
        return cls(ttft=prediction.ttft, tpot=prediction.tpot)


class OptionView(BaseModel):
    """An endpoint of the model at the moment of the decision, whether it was a candidate or not."""

    endpoint: str
    why: Why = Field(description="chosen, or why not")
    cost: float | None = Field(description="null: not finite, or no candidate")
    predicted: PredictionView | None = Field(description="null: no candidate, or the policy predicts nothing")
    cached_tokens: int | None = Field(description="null: no candidate")
    cached_source: Literal["events", "learnt"] | None
    requests: int = Field(description="in flight there, by this gateway")
    prompt_tokens_ahead: int = Field(description="of those, not yet computed")

    @classmethod
    def of(cls, option: Option) -> OptionView:
        told = option.told
        return cls(
            endpoint=option.endpoint,
            why=option.why,
            cost=option.cost if option.cost is not None and math.isfinite(option.cost) else None,
            predicted=None if option.predicted is None else PredictionView.of(option.predicted),
            cached_tokens=option.cached_tokens,
            cached_source=None if told is None else "events" if told else "learnt",
            requests=option.requests,
            prompt_tokens_ahead=option.prompt_tokens_ahead,
        )


class ExplanationView(BaseModel):
    slo: Mapping[str, float] | None = Field(description="targets of the request: ttft, tpot, in seconds")
    predicted: PredictionView | None = Field(description="of the chosen endpoint")
    observed_ttft: float | None = Field(description="seconds from the decision; null: not yet, or not streamed")
    observed_tpot: float | None = Field(description="seconds; null: not yet, not streamed, or broken off")
    options: list[OptionView] = Field(description="the chosen one first, then candidates by cost, then the others")
    left_out: int = Field(description="endpoints of the model that are not among them")

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationView:
        slo, predicted = explanation.slo, explanation.predicted
        return cls(
            slo=None if slo is None else {name: t for name, t in slo._asdict().items() if math.isfinite(t)},
            predicted=None if predicted is None else PredictionView.of(predicted),
            observed_ttft=explanation.observed_ttft,
            observed_tpot=explanation.observed_tpot,
            options=[OptionView.of(option) for option in explanation.options],
            left_out=explanation.left_out,
        )


class DecisionView(BaseModel):
    request_id: str = Field(description="the client's own if it sent one, so not unique")
    at: float = Field(description="seconds on a clock of the gateway's; with request_id it tells decisions apart")
    time: float = Field(description="Unix time, seconds")
    age_seconds: float
    model: str
    prompt_tokens: int
    endpoint: str = Field(description="the chosen one")
    cached_tokens: int = Field(description="of the chosen one")
    tied: int = Field(description="how many candidates shared the lowest cost")
    candidates: list[CandidateView] = Field(description="the chosen one first, then by cost")
    explanation: ExplanationView | None = Field(
        description="null: beyond 20 decisions a second they are not explained, unless asked for"
    )

    @classmethod
    def of(cls, decision: Decision, now: float, unix_now: float) -> DecisionView:
        age = max(now - decision.at, 0.0)
        considered = decision.candidates
        aligned = zip(considered.endpoints, decision.costs, considered.cached_tokens, strict=True)
        order = sorted(aligned, key=lambda each: (each[0] is not decision.endpoint, each[1]))
        return cls(
            request_id=decision.request_id,
            at=decision.at,
            time=unix_now - age,
            age_seconds=age,
            model=decision.model,
            prompt_tokens=decision.prompt_tokens,
            endpoint=decision.endpoint.name,
            cached_tokens=decision.cached_tokens,
            tied=decision.tied,
            candidates=[
                CandidateView(
                    endpoint=e.name,
                    cost=cost if math.isfinite(cost) else None,
                    cached_tokens=cached,
                    cached_source="events" if e.slot in decision.told else "learnt",
                )
                for e, cost, cached in order
            ],
            explanation=None if decision.explanation is None else ExplanationView.of(decision.explanation),
        )


class ReloadView(BaseModel):
    """What a reload changed; all of it is in effect for new requests."""

    added: list[str] = Field(description="endpoints that joined")
    removed: list[str] = Field(description="endpoints that get no new requests and leave when theirs are done")
    changed: list[str] = Field(description="endpoints that stay, with something new")
    sections: list[str] = Field(description="other sections of the configuration that say something new")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorView(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorDetail


def _without_credentials(url: str) -> str:
    """Configuration refuses them; a URL that came from elsewhere may still carry some."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url
