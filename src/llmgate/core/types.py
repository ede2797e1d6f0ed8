"""The nouns that every part of llmgate shares. Data only: no I/O, no clock.

All times are seconds on the caller's monotonic clock; all token counts are tokens of the serving model.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmgate.core.estimate import ByteClasses
    from llmgate.core.health import Health
    from llmgate.core.prefix import Holders
    from llmgate.core.slo import Slo


class Kind(enum.Enum):
    """What a request asks an engine to do. What tells the kinds apart on the wire is wire/kinds.py's."""

    CHAT = "chat", True
    COMPLETION = "completion", True
    EMBEDDING = "embedding"
    RESPONSES = "responses", True  # OpenAI's
    MESSAGES = "messages", True  # Anthropic's
    COUNT_TOKENS = "count_tokens"  # of an Anthropic request
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    GENERATE = "generate", True  # TGI's own, and SGLang's
    AUDIO = "audio"  # speech to text
    OTHER = "other"  # a path that the gateway does not know

    generates: bool
    """Whether answers are made token by token, so that there is an output to expect and to learn from."""

    __hash__ = object.__hash__  # members are compared by identity; enum's own hash costs a call in Python

    def __new__(cls, value: str, generates: bool = False) -> Kind:
        kind = object.__new__(cls)
        kind._value_ = value
        kind.generates = generates
        return kind


class TerminationCause(enum.StrEnum):
    """How a request (or one attempt at it) ended; the value is what metrics and logs show."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    REFUSED = "refused"  # the engine answered 429 or 503: it is busy, not broken
    SHUTDOWN = "shutdown"
    GATEWAY_ERROR = "gateway_error"


class Verdict(enum.Enum):
    """What one attempt says about its endpoint's health."""

    GOOD = "good"
    BAD = "bad"  # a 5xx other than 503, a reset, a timeout
    UNREACHABLE = "unreachable"  # no connection could be made
    NEUTRAL = "neutral"  # says nothing: the client left, a 4xx, 429 or 503


@dataclass(slots=True)
class Usage:
    """Token counts of one answer: the engine's own, or counted by the gateway (then `counted` is true)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    counted: bool = False


@dataclass(slots=True, eq=False)
class InferenceRequest:
    """What routing may know of a request. `prefix` is empty unless the router asked for it (`needs_prefix`)."""

    id: str
    kind: Kind
    model: str  # the public name, aliases resolved
    stream: bool
    prompt_tokens: int  # exact or estimated
    expected_output_tokens: int  # bounded by max_tokens
    max_tokens: int | None = None
    prompt_bytes: int = 0  # length of the raw prompt that `prefix` was made from
    prefix: Sequence[int] = ()  # chain keys of the prompt's leading blocks, see core/prefix.py
    holders: Holders | None = None  # who has seen how much of `prefix`, where that was just looked up
    byte_classes: ByteClasses | None = None  # what the estimate was made from; None when the count is exact
    session: str | None = None  # what ties requests of one conversation together; None unless somebody asked for it
    blocks: Sequence[int] = ()  # chain keys of the prompt's whole blocks of tokens, see core/blocks.py
    block_tokens: int = 0  # tokens of one of them; 0: the prompt's token ids are not known
    tenant: Hashable = None  # whose answers have lengths alike: whatever tells who asks
    slo: Slo | None = None  # what its client wants, or the model is configured for
    cached_tokens: int = 0  # that the endpoint it was last booked on was thought to hold of its prompt

    @property
    def tokens(self) -> int:
        """The whole expected cost: prompt plus expected output."""
        return self.prompt_tokens + self.expected_output_tokens


FRESH_SECONDS = 5.0
"""How long a reading is current at the least: five scrape periods, by default."""


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What an engine has counted since it started, of all its clients' requests. None where it does not tell."""

    prompt_tokens: int | None = None  # cached ones among them
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    preemptions: int | None = None  # requests put back from the batch for want of KV cache, to be computed again


@dataclass(frozen=True, slots=True)
class EndpointMetrics:
    """One reading of an engine's own gauges. What an engine does not report is None, never zero."""

    at: float
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None  # 0..1
    kv_capacity_tokens: int | None = None
    asleep: bool = False  # it answers, but says itself that it serves nothing
    lifetime: float = FRESH_SECONDS  # seconds
    max_running: int | None = None  # requests that it runs at once
    counts: EngineCounts = EngineCounts()

    def fresh(self, now: float) -> bool:
        """A reading older than its `lifetime` is unknown, not current."""
        return now - self.at <= self.lifetime


class Load:
    """What the gateway itself has booked on one endpoint and not yet settled. Only the ledger books and settles.

    `kv_tokens` is room in the KV cache: uncached prompts and whole expected answers, taken until the request ends;
    `context_tokens` are whole prompts, which decoding reads. `prefill_tokens` and `decode_tokens` are work ahead, and
    shrink as it is done.

    `recent_tokens` is all tokens booked lately, each fading with a time constant of RECENT_SECONDS: it tells apart two
    endpoints that are equally idle now but did not do equal work. The pool lets it fade, about once a second.
    """

    __slots__ = ("context_tokens", "decode_tokens", "kv_tokens", "prefill_tokens", "recent_tokens", "requests")

    RECENT_SECONDS = 60.0

    def __init__(self) -> None:
        self.requests = 0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.kv_tokens = 0
        self.context_tokens = 0
        self.recent_tokens = 0.0

    @property
    def tokens(self) -> int:
        """Outstanding work: prompt tokens not yet prefilled plus output tokens still expected."""
        return self.prefill_tokens + self.decode_tokens

    def age(self, seconds: float) -> None:
        """Let `recent_tokens` fade."""
        self.recent_tokens *= math.exp(-seconds / self.RECENT_SECONDS)


@dataclass(frozen=True, slots=True)
class KvEventSource:
    """Where an engine, or one data-parallel rank of it, tells of its KV cache; ZeroMQ addresses."""

    endpoint: str
    replay: str | None = None  # where batches that were missed are to be had again
    topic: str = ""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What configuration says of one endpoint. A reload may put another in its place; name and URL stay."""

    name: str
    url: str
    weight: float = 1.0
    engine: str | None = None  # None: detected
    models: Mapping[str, str] | None = None  # public name → served name; None: learnt from /v1/models
    gpu: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    precisions: Mapping[str, str] = field(default_factory=dict)  # by public model name, where stated
    node: str | None = None
    gpus: Sequence[int | str] = ()  # of the node: indices or UUIDs
    kv_events: KvEventSource | Literal["auto", "off"] = "auto"  # auto: where the engine says itself
    weight_stated: bool = False  # and not made of the GPUs that it has: then it holds whatever part of them it has


@dataclass(slots=True, eq=False)
class Endpoint:
    """One engine, alive: its specification plus what is known of it now. Policies read it and change nothing.

    `slot` is a small integer, unique among the pool's members, for bit masks and aligned arrays. `weight` is what it
    counts for now: the specification's, less while it starts slowly (core/pool.py).
    """

    spec: EndpointSpec
    slot: int
    health: Health
    name: str = field(init=False)
    weight: float = field(init=False)
    load: Load = field(default_factory=Load)
    engine: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)  # LoRA adapters among them → the model that each adapts
    metrics: EndpointMetrics | None = None
    draining: bool = False
    derating: float = 1.0  # the part of its weight that it has: slices of GPUs, or one that is not well
    member: bool = True  # of its pool; False once it has left, and all that was known of it is forgotten
    busy_until: float = -math.inf  # it answered that it is full: others first until then

    def __post_init__(self) -> None:
        self.name = self.spec.name
        self.weight = self.spec.weight

    def kv_in_use(self, now: float) -> float:
        """Tokens of its KV cache that requests in flight hold: what was booked, or the engine's own reading if that is
        current, more, and to be had."""
        metrics, booked = self.metrics, self.load.kv_tokens
        if metrics is None or metrics.kv_usage is None or metrics.kv_capacity_tokens is None or not metrics.fresh(now):
            return booked
        return max(booked, metrics.kv_usage * metrics.kv_capacity_tokens)

    def __repr__(self) -> str:
        return f"<Endpoint {self.spec.name} {self.health.state.value}{' draining' if self.draining else ''}>"
