"""From a configuration to what the parts of a gateway are made of."""

from __future__ import annotations

import logging
import math
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Literal

from llmgate.config import Config, DebugLogConfig, EndpointConfig, SloConfig, TracingConfig
from llmgate.core.comparison import Comparison
from llmgate.core.gpu import GpuPolicy
from llmgate.core.hardware import prior_weight
from llmgate.core.health import HealthPolicy
from llmgate.core.protocols import Router
from llmgate.core.retry import RetryPolicy
from llmgate.core.slo import Slo
from llmgate.core.types import EndpointSpec, KvEventSource
from llmgate.gateway.cors import Cors
from llmgate.gateway.edits import EditRules
from llmgate.gateway.gate import Limits
from llmgate.gateway.proxy import ProxySettings
from llmgate.probes.gpu_exporters import Deliver, ExporterWatch
from llmgate.probes.gpus import GpuWatch
from llmgate.probes.nvml import Nvml
from llmgate.routing import rivals
from llmgate.telemetry.access_log import AccessLog
from llmgate.telemetry.debug_log import DebugLog
from llmgate.tokens import TokenCounter, TokenizerError, find_tokenizer, load_tokenizer
from llmgate.upstream.base import Timeouts
from llmgate.wire.forwarded import ClientAddress

if TYPE_CHECKING:
    from llmgate.telemetry.tracing import Tracing

logger = logging.getLogger("llmgate")


FIXED = (
    ("server", "host"),
    ("server", "port"),
    ("server", "reuse_port"),
    ("admin", "host"),
    ("admin", "port"),
    ("gpus", "nvml"),
    ("gpus", "node"),
    ("gpus", "interval"),
    ("gpus", "exporters"),
    *(("debug_log", key) for key in DebugLogConfig.model_fields),
    *(("tracing", key) for key in TracingConfig.model_fields),
)


def fixed_changes(running: Config, wanted: Config) -> Iterator[str]:
    """What cannot change while the gateway runs, and would."""
    for section, key in FIXED:
        now, then = getattr(getattr(running, section), key), getattr(getattr(wanted, section), key)
        if now != then:
            yield f"{section}.{key}: cannot change from {now} to {then} while llmgate runs: restart it"


def node(config: Config) -> str:
    """What this machine is called."""
    return config.gpus.node or socket.gethostname()


def gpu_watches(config: Config, deliver: Deliver, clock: Callable[[], float]) -> list[GpuWatch | ExporterWatch]:
    """Whoever looks at GPUs: at this machine's own, and at what other nodes' exporters tell."""
    settings = config.gpus
    watches: list[GpuWatch | ExporterWatch] = []
    if settings.nvml != "off":
        watches.append(GpuWatch(Nvml(node(config), clock), settings.interval, partial(deliver, node(config))))
    others = [ExporterWatch(each.node, each.url, settings.interval, deliver, clock) for each in settings.exporters]
    return [*watches, *others]


def gpu_policy(config: Config) -> GpuPolicy:
    return GpuPolicy(**config.gpus.health.model_dump())


def limits(config: Config) -> Limits:
    server = config.server
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        server.max_in_flight or sys.maxsize,
        min(server.max_connections or sys.maxsize, descriptors // 2),  # one whose request is in flight takes two
        server.max_buffered_bytes or sys.maxsize,
        server.max_loop_lag or math.inf,
        server.send_timeout or math.inf,
        server.head_timeout or math.inf,
        server.body_timeout or math.inf,
    )


def aliases(config: Config) -> dict[str, str]:
    return {alias: model.name for model in config.models for alias in model.aliases}


def comparison(config: Config, router: Router) -> Comparison | None:
    """Of the policy with the others, without history."""
    if not config.router.compare:
        return None

    def failed(policy: str, error: Exception) -> None:
        logger.error("policy %s is compared no more: it failed with %s", policy, type(error).__name__)

    return rivals.comparison(config.router.policy, router, Random(), sessions=bool(config.access_log.to), failed=failed)


def debug_log(config: Config) -> DebugLog | None:
    """Raises OSError if its file cannot be opened."""
    wanted = config.debug_log
    if not wanted.to:
        return None
    logger.warning("texts of requests with the keys %s are written to %s", ", ".join(wanted.keys), wanted.to)
    secrets = [config.admin.token, config.access_log.hash_key, *(each.api_key for each in config.endpoints)]
    return DebugLog(
        wanted.to, wanted.keys, most=wanted.most, secrets={each.get_secret_value() for each in secrets} - {""}
    )


def tracing(config: Config) -> Tracing | None:
    wanted = config.tracing
    if not wanted.enabled:
        return None
    from llmgate.telemetry.tracing import Tracing, is_disabled  # an extra

    if is_disabled():
        logger.warning("nothing is traced, though tracing.enabled says so: OTEL_SDK_DISABLED is true")
        return None
    return Tracing(
        endpoint=wanted.endpoint,
        headers={name: value.get_secret_value() for name, value in wanted.headers.items()},
        sample=wanted.sample,
        service=wanted.service,
        attributes=wanted.attributes,
    )


def cors(config: Config) -> Cors | None:
    return Cors(config.cors.origins, config.cors.max_age) if config.cors.origins else None


def health_policy(config: Config) -> HealthPolicy:
    health = config.health
    return HealthPolicy(health.rise, health.fall, health.strikes, health.eject, health.slow_start)


def proxy_settings(config: Config) -> ProxySettings:
    server, general, retries = config.server, config.timeouts, config.retries
    return ProxySettings(
        policy=config.router.policy,
        timeouts=Timeouts(general.connect, general.first_byte, general.idle),
        retry=RetryPolicy(retries.max_attempts, retries.ratio, retries.floor, retries.burst),
        model_timeouts={
            model.name: Timeouts(
                own.connect or general.connect, own.first_byte or general.first_byte, own.idle or general.idle
            )
            for model in config.models
            if (own := model.timeouts) is not None
        },
        keep_alive=server.stream_keep_alive,
        client_address=(
            ClientAddress(server.trusted_proxies, server.forwarded_header) if server.send_client_address else None
        ),
        edit_rules=EditRules(config.usage.inject, server.rewrite_answer_model),
        slo=_slo(config.slo, None),
        model_slos={
            model.name: slo for model in config.models if model.slo and (slo := _slo(model.slo, config.slo)) is not None
        },
        explain=server.explain,
    )


def _slo(own: SloConfig, general: SloConfig | None) -> Slo | None:
    """Target by target, what `own` says, else the `general` one; None if neither says anything."""
    ttft, tpot = own.ttft or (general and general.ttft), own.tpot or (general and general.tpot)
    return Slo(ttft or math.inf, tpot or math.inf) if ttft or tpot else None


def spec(endpoint: EndpointConfig) -> EndpointSpec:
    weight = endpoint.weight
    if weight is None:
        count = len(endpoint.gpus or ()) or 1
        weight = float(count) if endpoint.gpu is None else prior_weight(endpoint.gpu, count)
        if weight is None:
            logger.warning("%s: no weight is known for the GPU %r; it counts as 1.0", endpoint.name, endpoint.gpu)
            weight = float(count)
        weight *= endpoint.gpu_share
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
        kv_events=_kv_events(endpoint),
        weight_stated=endpoint.weight is not None,
    )


def _kv_events(endpoint: EndpointConfig) -> KvEventSource | Literal["auto", "off"]:
    stated = endpoint.kv_events
    return stated if isinstance(stated, str) else KvEventSource(stated.endpoint, stated.replay, stated.topic)


def load_tokenizers(config: Config) -> dict[str, TokenCounter]:
    """By model. One that is there and cannot be used is told, and the model's prompts are estimated. Raises
    TokenizerError if a path leads nowhere, which is a mistake of the configuration."""
    loaded: dict[str, TokenCounter] = {}
    by_path: dict[str, TokenCounter] = {}
    for model in config.models:
        if (path := model.tokenizer) and path not in by_path:
            find_tokenizer(path)
            try:
                by_path[path] = load_tokenizer(path)
            except TokenizerError as error:
                warn_of_estimates(model.name, error)
        if path and path in by_path:
            loaded[model.name] = by_path[path]
    return loaded


def warn_of_estimates(model: str, error: TokenizerError) -> None:
    logger.warning("the prompts of %s are estimated, since its tokenizer cannot be used: %s", model, error)


def access_log(config: Config) -> AccessLog | None:
    wanted = config.access_log
    if not wanted.to:
        return None
    return AccessLog(
        wanted.to, key=wanted.hash_key.get_secret_value(), prefix_blocks=wanted.prefix_blocks, sample=wanted.sample
    )
