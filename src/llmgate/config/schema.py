"""The configuration as types. Frozen; unknown keys are refused. Times are seconds, sizes bytes."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from llmgate.config.section import Section
from llmgate.config.tls import EndpointTls, ListenerTls
from llmgate.core.protocols import Router
from llmgate.routing import profile, registry

Engine = Literal["vllm", "sglang", "tgi", "trtllm", "llamacpp", "openai"]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free one
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+( [!-~]+)*$")]
"""Printable ASCII: names become header values and metric labels."""


def _has_blanks(text: str) -> bool:
    """Blanks, ends of lines, control characters: what no URL and no header value of ours may hold."""
    return not text.isprintable() or any(map(str.isspace, text))


def _secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()  # files and shells like to add the end of a line
    if _has_blanks(value):
        raise ValueError("must not contain blanks or control characters: it is sent in a header")
    return SecretStr(value)


Secret = Annotated[SecretStr, AfterValidator(_secret)]


def _header_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()
    if not (value.isprintable() and value.isascii()):
        raise ValueError("must be printable ASCII: it is sent in a header")
    return SecretStr(value)


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("is no name of a header")
    return name


def _exporter_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or _has_blanks(url) or parts.username:
        raise ValueError("must be the URL of the exporter's page, as in http://gpu-box:9400/metrics")
    return url


def _collector(url: str) -> str:
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("must be the http:// or https:// URL of an OTLP collector, as in http://localhost:4318")
    if urlsplit(url).username is not None:
        raise ValueError("credentials do not belong in the URL: use tracing.headers")
    if url.rstrip("/").endswith("/v1/traces"):
        raise ValueError("is the base URL: leave /v1/traces out, it is added")
    return url


def _engine_url(url: str) -> str:
    if url.startswith("unix:"):
        if not url.removeprefix("unix:").strip("/"):
            raise ValueError("a unix URL needs an absolute path, as in unix:/run/vllm.sock")
        return url
    if _has_blanks(url):
        raise ValueError("must not contain blanks or control characters: write %20 for a blank in a path")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    if parts.username or parts.password:
        raise ValueError("must not contain credentials: use api_key")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    if not parts.path.isascii():
        raise ValueError("must not have a path beyond ASCII: write it percent-encoded, as in /caf%C3%A9")
    _ = parts.port  # raises ValueError when out of range
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must not end in /v1: the paths of requests, which begin with it, are added to the URL")
    return url.rstrip("/")


EngineUrl = Annotated[str, AfterValidator(_engine_url)]


def default_name(url: str) -> str:
    """host:port of a URL, or the path of a unix socket."""
    if url.startswith("unix:"):
        return "/" + url.removeprefix("unix:").strip("/")
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def is_loopback(host: str) -> bool:
    address = _ip_address(host)
    return host == "localhost" if address is None else address.is_loopback


def is_everywhere(host: str) -> bool:
    """Whether to listen there is to listen on every address of the machine."""
    address = _ip_address(host)
    return not host if address is None else address.is_unspecified


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"must be an address or a network, as in 10.0.0.0/8: {error}") from None


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text != "*" and (parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}"):
        raise ValueError("must be what browsers send, as in https://chat.example.com, or * for all")
    return text if text == "*" else text.lower()


class ServerConfig(Section):
    host: str = "0.0.0.0"
    port: Port = 8080
    tls: ListenerTls | None = None
    body_limit: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Largest request body taken, in bytes; a larger one is answered 413."""
    max_in_flight: int = Field(default=10_000, ge=0)
    """Requests served at once; one more is answered 503 before its body is read. 0: no limit."""
    max_connections: int = Field(default=50_000, ge=0)
    """Client connections; requests on one more are answered 503. 0: no limit but that of file descriptors."""
    max_buffered_bytes: int = Field(default=1024 * 1024 * 1024, ge=0)
    """Of request bodies that are held, all together; a request beyond is answered 503. 0: no limit."""
    max_loop_lag: float = Field(default=0.0, ge=0, le=60, allow_inf_nan=False)
    """Seconds: while the event loop is later than this, requests are answered 503. 0: no limit."""
    send_timeout: float = Field(default=60.0, ge=0, le=86_400, allow_inf_nan=False)
    """Seconds in which a client must take what has piled up for it, or it is cut off. 0: no limit."""
    head_timeout: float = Field(default=10.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds for the head of a request from its first byte, or for the first head of a connection. 0: no limit."""
    body_timeout: float = Field(default=60.0, ge=0, le=86_400, allow_inf_nan=False)
    """Seconds in which the body must come, and one more for each 16 KiB of it that have. 0: no limit."""
    reuse_port: bool = False
    """Let other processes listen on the same ports (SO_REUSEPORT)."""
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = Field(default_factory=list)
    """Networks whose word for their client's address is taken."""
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The one that they set."""
    send_client_address: bool = False
    """Tell engines the client's address, as x-forwarded-for."""
    stream_keep_alive: float = Field(default=0.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds between comments in a stream that has not begun; 0: none."""
    forward_authorization: bool = False
    """Send the client's own Authorization or x-api-key on to engines that have no api_key of their own."""
    rewrite_answer_model: bool = False
    """Put the name that the client asked for in place of the engine's own into the `model` of answers."""
    metrics: bool = True
    """Answer /metrics here; the admin port does in any case."""
    explain: bool = False
    """Tell clients that ask, by `x-llmgate-explain: 1`, why their request went where it went: names of endpoints and
    their loads among it."""

    @model_validator(mode="after")
    def _bodies_fit(self) -> ServerConfig:
        if 0 < self.max_buffered_bytes < self.body_limit:
            raise ValueError(f"max_buffered_bytes: {self.max_buffered_bytes} is less than a body may have (body_limit)")
        return self


class AdminConfig(Section):
    host: str = "127.0.0.1"
    port: Port = 8081
    tls: ListenerTls | None = None
    token: Secret = SecretStr("")

    @model_validator(mode="after")
    def _protected(self) -> AdminConfig:
        if not is_loopback(self.host) and not self.token.get_secret_value():
            raise ValueError("a token is required when the host is not loopback: set admin.token")
        return self


class ServedModel(Section):
    name: Name
    served_as: Name | None = None
    """What the engine itself calls it; default: the same name."""
    precision: str | None = None


def _served_model(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _zmq_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "ipc" and (parts.netloc or parts.path):
        return text
    if parts.scheme != "tcp" or _has_blanks(text) or not parts.netloc or parts.path or not parts.port:
        raise ValueError("must be tcp://HOST:PORT, tcp://*:PORT or ipc://PATH")
    return text


def _connectable(text: str) -> str:
    if "*" in text:
        raise ValueError("must be the engine's own address: replays are asked for there")
    return text


ZmqAddress = Annotated[str, AfterValidator(_zmq_address)]


class KvEventsConfig(Section):
    """Where an engine's KV events come from, when it does not say so itself."""

    endpoint: ZmqAddress
    """With a host, it is connected to; tcp://*:PORT is listened on, for an engine that connects to the gateway."""
    replay: Annotated[ZmqAddress, AfterValidator(_connectable)] | None = None
    topic: str = ""


def _switch(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads `off` and `no` as false


class EndpointConfig(Section):
    url: EngineUrl
    name: Name = ""
    engine: Engine | None = None
    models: list[Annotated[ServedModel, BeforeValidator(_served_model)]] | None = Field(default=None, min_length=1)
    gpu: str | None = None
    weight: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    labels: dict[str, str] = Field(default_factory=dict)
    node: str | None = None
    gpus: list[int | str] | None = None
    gpu_share: float = Field(default=1.0, gt=0, le=1)
    """The part of them that it has where others take turns on them; MIG instances say theirs themselves."""
    api_key: Secret = SecretStr("")
    tls: EndpointTls | None = None
    tls_ca: Path | None = None
    """The same as `tls.ca`, where there is nothing else to say."""
    kv_events: Annotated[Literal["auto", "off"] | KvEventsConfig, BeforeValidator(_switch)] = "auto"
    """What the engine tells of its KV cache; auto: from where it says itself (vLLM's GET /kv_event_sources)."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and isinstance(values.get("url"), str):
            try:
                return {**values, "name": default_name(_engine_url(values["url"]))}
            except ValueError:
                return {**values, "name": "unnamed"}  # the URL's own error is reported
        return values

    @model_validator(mode="after")
    def _tls_of_https(self) -> EndpointConfig:
        if self.tls is not None and self.tls_ca is not None:
            raise ValueError("tls_ca: belongs into tls, as its ca")
        if self.tls is not None and not self.url.startswith("https:"):
            raise ValueError(
                f"tls: has no effect on {self.url.partition(':')[0]}: write https:// if the engine speaks it"
            )
        return self

    @property
    def client_tls(self) -> EndpointTls | None:
        """What an https engine is connected to with; None for others."""
        if self.tls is None and (self.tls_ca is not None or self.url.startswith("https:")):
            return EndpointTls(ca=self.tls_ca)
        return self.tls


def _part(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class FilterConfig(Section):
    type: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _creatable(self) -> FilterConfig:
        registry.FILTERS.create(self.type, self.options)
        return self


class ScorerConfig(Section):
    type: str
    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _creatable(self) -> ScorerConfig:
        registry.SCORERS.create(self.type, self.options)
        return self


class RouterConfig(Section):
    """A policy by its name, or one composed of filters, scorers and a picker: then its name is `profile`."""

    policy: str = registry.DEFAULT
    options: dict[str, Any] = Field(default_factory=dict)
    filters: list[Annotated[FilterConfig, BeforeValidator(_part)]] = Field(default_factory=list)
    scorers: list[Annotated[ScorerConfig, BeforeValidator(_part)]] = Field(default_factory=list)
    picker: str = registry.DEFAULT_PICKER
    compare: bool = True

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        composed = isinstance(values, dict) and any(values.get(key) for key in ("filters", "scorers", "picker"))
        return {"policy": profile.NAME, **values} if composed else values

    @model_validator(mode="after")
    def _creatable(self) -> RouterConfig:
        composed = self.filters or self.scorers or self.picker != registry.DEFAULT_PICKER
        if composed and self.policy != profile.NAME:
            raise ValueError(f"policy: {self.policy!r} has no filters, scorers and picker: state either it or them")
        if self.policy == profile.NAME and not self.scorers:
            raise ValueError("scorers: at least one is needed, as in [{type: prefix, weight: 2}, {type: load}]")
        if self.policy == profile.NAME and self.options:
            raise ValueError("options: belong to a policy; those of filters and scorers stand beside their type")
        self.create()
        return self

    def routes_as(self, other: RouterConfig) -> bool:
        """Whether both describe the same router."""
        return self == other.model_copy(update={"compare": self.compare})

    def create(self) -> Router:
        """The router that this describes, without history. ValueError says what is wrong with it."""
        if self.policy != profile.NAME:
            return registry.create(self.policy, self.options)
        return profile.Profile(
            [registry.FILTERS.create(each.type, each.options) for each in self.filters],
            [(registry.SCORERS.create(each.type, each.options), each.weight) for each in self.scorers],
            registry.PICKERS.create(self.picker),
        )


class ModelTimeouts(Section):
    """In place of those of `timeouts`, where given."""

    connect: Seconds | None = None
    first_byte: Seconds | None = None
    idle: Seconds | None = None


class SloConfig(Section):
    """Targets of requests that bring none of their own."""

    ttft: Seconds | None = None
    """To the first token of a streamed answer."""
    tpot: Seconds | None = None
    """From token to token, on average."""


class ModelConfig(Section):
    name: Name
    aliases: list[Name] = Field(default_factory=list)
    tokenizer: str | None = None
    """A directory (after `transformers:` as transformers loads it), a tokenizer.json, or `embedded` (SmolLM2); prompts
    are then counted exactly."""
    timeouts: ModelTimeouts | None = None
    slo: SloConfig | None = None
    """In place of `slo`, target by target."""


class TimeoutsConfig(Section):
    connect: Seconds = 2.0
    first_byte: Seconds = 300.0
    idle: Seconds = 300.0
    notice: float = Field(default=0.5, ge=0, le=3600)
    """A shutdown begins with /ready answering 503 for this long, while requests are still taken."""
    drain: float = Field(default=110.0, ge=0, le=86_400)
    """Then new connections are refused, and requests in flight may go on for this long."""


class HealthConfig(Section):
    interval: Seconds = 5.0
    """Between probes of an endpoint that is up; one that is not is probed every second."""
    timeout: Seconds = 5.0
    rise: int = Field(default=2, ge=1, le=100)
    fall: int = Field(default=3, ge=1, le=100)
    strikes: int = Field(default=3, ge=1, le=1000)
    eject: Seconds = 30.0
    slow_start: float = Field(default=30.0, ge=0, le=86_400, allow_inf_nan=False)
    """Until an endpoint that takes requests again has its full weight. 0: at once."""


class ScrapeConfig(Section):
    interval: Seconds = 1.0
    timeout: Seconds = 1.0


class GpuHealthConfig(Section):
    """When a GPU is not well: see core/gpu.py."""

    hot: float = Field(default=85.0, gt=0, le=200, allow_inf_nan=False)
    """°C; from there on it is degraded."""
    full: float | None = Field(default=None, gt=0, le=1)
    """Part of its memory in use from which it is degraded. None: never, as engines take nearly all at their start."""
    ecc_total: int | None = Field(default=None, ge=1)
    """Memory errors in its life from which it is degraded. None: never."""
    fall: int = Field(default=3, ge=1, le=1000)
    """Readings in a row that make it worse."""
    rise: int = Field(default=10, ge=1, le=1000)
    """Good ones in a row that make it well again."""


class GpuExporter(Section):
    node: Name
    url: Annotated[str, AfterValidator(_exporter_url)]


class GpusConfig(Section):
    nvml: Annotated[Literal["auto", "off"], BeforeValidator(_switch)] = "auto"
    """Watch the GPUs of this machine, if it has any."""
    node: Name | None = None
    """What `endpoints[].node` calls this machine; default: its host name."""
    interval: Seconds = 1.0
    health: GpuHealthConfig = GpuHealthConfig()
    exporters: list[GpuExporter] = Field(default_factory=list)
    """Where the GPUs of other nodes are told of."""

    @model_validator(mode="after")
    def _told_once(self) -> GpusConfig:
        for node, count in Counter(each.node for each in self.exporters).items():
            if count > 1:
                raise ValueError(f"exporters: {count} of them are of the node {node!r}")
            if node == self.node and self.nvml != "off":
                raise ValueError(f"exporters: {node!r} is this machine, whose GPUs are read anyway, or set nvml: off")
        return self


class UsageConfig(Section):
    inject: Literal["auto", "always", "never"] = "auto"
    """Ask for the usage of streams whose client did not ask: of engines known to take the question, all, or none."""


class RetriesConfig(Section):
    max_attempts: int = Field(default=3, ge=1, le=100)
    ratio: float = Field(default=0.2, ge=0, le=10)
    floor: float = Field(default=10.0, ge=0, le=1e6)
    burst: float = Field(default=100.0, ge=0, le=1e6)


def _log_target(value: Any) -> Any:
    return "" if value is False or value is None else value  # YAML reads `off` and `no` as false


class AccessLogConfig(Section):
    to: Annotated[str, BeforeValidator(_log_target)] = ""
    """`stdout`, `stderr` or a file; empty: no access log."""
    hash_key: Secret = SecretStr("")
    """What sessions and prefixes are hashed with; empty: made up at each start."""
    prefix_blocks: int = Field(default=0, ge=0, le=1024)
    """How many leading blocks of each prompt the log has hashes of."""
    sample: float = Field(default=1.0, ge=0, le=1)
    """The part of good answers that is logged; what was refused, failed or left is logged always."""


class DebugLogConfig(Section):
    to: str = ""
    """A file; empty: texts are written nowhere."""
    keys: list[Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]] = Field(default_factory=list)
    """Beginnings of the SHA-256 of the clients' keys whose requests are written, in hexadecimal."""
    most: int = Field(default=65_536, ge=1, le=262_144)
    """Characters of each text."""

    @model_validator(mode="after")
    def _for_somebody(self) -> DebugLogConfig:
        if self.to and not self.keys:
            raise ValueError(
                'keys: at least one is needed, for nobody\'s texts are written unasked: printf %s "$KEY" | sha256sum'
            )
        if self.to in ("stdout", "stderr"):
            raise ValueError("to: must be a file, which only its owner can read")
        return self


class CorsConfig(Section):
    origins: list[Annotated[str, AfterValidator(_origin)]] = Field(default_factory=list)
    """Whose pages may call the data port from a browser; `*`: everybody's."""
    max_age: int = Field(default=600, ge=0, le=86_400)
    """Seconds for which a browser need not ask again."""


class TracingConfig(Section):
    enabled: bool = False
    endpoint: Annotated[str, AfterValidator(_collector)] = ""
    """Base URL of an OTLP collector; empty: what OTEL_EXPORTER_OTLP_ENDPOINT says, or else http://localhost:4318."""
    headers: dict[Annotated[str, AfterValidator(_header_name)], Annotated[SecretStr, AfterValidator(_header_value)]] = (
        Field(default_factory=dict)
    )
    """For the collector."""
    sample: float | None = Field(default=None, ge=0, le=1)
    """The part that is recorded of the requests whose client says nothing of it; None: what OTEL_TRACES_SAMPLER says,
    or else all."""
    service: str = ""
    """Empty: what OTEL_SERVICE_NAME says, or else llmgate."""
    attributes: dict[str, str] = Field(default_factory=dict)
    """Of the resource, beside those of OTEL_RESOURCE_ATTRIBUTES."""

    @model_validator(mode="after")
    def _installed(self) -> TracingConfig:
        if self.enabled and not _is_installed("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk.trace"):
            raise ValueError("traces need OpenTelemetry, which is not installed: pip install 'llmgate-lb[otel]'")
        return self


def _is_installed(*modules: str) -> bool:
    try:
        return all(find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:  # of a package that one of them is in
        return False


class ReloadConfig(Section):
    watch: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds between looks whether the file has changed; 0: it is not watched."""


class Config(Section):
    server: ServerConfig = ServerConfig()
    admin: AdminConfig = AdminConfig()
    endpoints: list[EndpointConfig] = Field(min_length=1)
    router: RouterConfig = RouterConfig()
    models: list[ModelConfig] = Field(default_factory=list)
    timeouts: TimeoutsConfig = TimeoutsConfig()
    health: HealthConfig = HealthConfig()
    scrape: ScrapeConfig = ScrapeConfig()
    gpus: GpusConfig = GpusConfig()
    retries: RetriesConfig = RetriesConfig()
    access_log: AccessLogConfig = AccessLogConfig()
    debug_log: DebugLogConfig = DebugLogConfig()
    cors: CorsConfig = CorsConfig()
    reload: ReloadConfig = ReloadConfig()
    usage: UsageConfig = UsageConfig()
    slo: SloConfig = SloConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _no_conflicts(self) -> Config:
        for name, count in Counter(endpoint.name for endpoint in self.endpoints).items():
            if count > 1:
                raise ValueError(f"endpoints: {count} of them are named {name!r}; give each a name of its own")
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(f"models: {name!r} is the name or alias of {count} models")
        hosts = {self.server.host, self.admin.host}
        meet = len(hosts) == 1 or any(map(is_everywhere, hosts))
        if meet and self.server.port and self.server.port == self.admin.port:
            raise ValueError(f"admin.port: {self.admin.port} is the data port already")
        return self
