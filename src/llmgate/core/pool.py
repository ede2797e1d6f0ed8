"""Membership: which endpoints there are, which models they serve, and which of them may be given work now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from llmgate.core.health import Health, HealthPolicy, State
from llmgate.core.types import Endpoint, EndpointSpec

AGE_SECONDS = 1.0
"""How often loads are aged and slow starts go on. Against a time constant of a minute that is smooth."""

FIRST_SHARE = 0.1
"""Of its weight, at the beginning of a slow start: enough to be tried, and Envoy's default too."""


class EndpointPool:
    """Endpoints by name. The ready tuple of each model is cached and rebuilt only after a change.

    Slow start: an endpoint that begins to take requests, for the first time or again (it came up, woke, was undrained,
    passed its trial), counts for little at first and for its whole weight only after `health.slow_start` seconds. Its
    caches are cold and nothing is in flight there, so that every policy that balances load would send it all that
    comes. What counts is how much longer the others have been there: those that begin together are equals, and the one
    that has been there longest among those of a model always has its whole weight.
    """

    def __init__(
        self,
        specs: Sequence[EndpointSpec] = (),
        *,
        aliases: Mapping[str, str] | None = None,
        health: HealthPolicy = HealthPolicy(),  # noqa: B008  (frozen)
    ) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._aliases = dict(aliases or {})
        self._health = health
        self._ready: dict[str, tuple[Endpoint, ...]] = {}
        self._models: dict[str, None] | None = None
        self._aged_at = math.inf  # the first tick only starts the clock
        self._next_tick = -math.inf
        self._serving: dict[Endpoint, tuple[int, float]] = {}  # which time up it is for each, and when that was noticed
        for spec in specs:
            self.add(spec)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def __len__(self) -> int:
        return len(self._endpoints)

    def get(self, name: str) -> Endpoint | None:
        return self._endpoints.get(name)

    # Membership and what endpoints say of themselves

    def add(self, spec: EndpointSpec) -> Endpoint:
        """A new member; it takes no work before its first successful probe. ValueError if the name is taken."""
        if spec.name in self._endpoints:
            raise ValueError(f"there are two endpoints named {spec.name!r}: give one of them another name")
        used = {endpoint.slot for endpoint in self}
        slot = next(number for number in range(len(used) + 1) if number not in used)
        endpoint = Endpoint(spec, slot, Health(self._health, self._changed), engine=spec.engine)
        endpoint.models = dict(spec.models or {})
        self._endpoints[spec.name] = endpoint
        self._changed()
        return endpoint

    def remove(self, name: str) -> Endpoint | None:
        """Forget a member. Charges on it settle on the object itself; a namesake added later starts at zero."""
        endpoint = self._endpoints.pop(name, None)
        if endpoint is not None:
            endpoint.member = False
            self._serving.pop(endpoint, None)
        self._changed()
        return endpoint

    def update(self, endpoint: Endpoint, spec: EndpointSpec) -> None:
        """Another specification of a member of that name. Its load, health and all that was learnt of it stay."""
        endpoint.spec = spec
        endpoint.weight = spec.weight * endpoint.derating
        endpoint.engine = spec.engine or endpoint.engine
        if spec.models is not None:
            endpoint.models = dict(spec.models)
        self._changed()

    def set_aliases(self, aliases: Mapping[str, str]) -> None:
        """Alias → public name, in place of those there were."""
        self._aliases = dict(aliases)

    def set_health_policy(self, policy: HealthPolicy) -> None:
        """For members of now and later. An ejection that has begun ends when it was to end."""
        self._health = policy
        for endpoint in self:
            endpoint.health.follow(policy)
            if not policy.slow_start:
                endpoint.weight = endpoint.spec.weight * endpoint.derating
        self._changed()

    def set_models(
        self, endpoint: Endpoint, models: Mapping[str, str], adapters: Mapping[str, str] | None = None
    ) -> None:
        """Public name → served name, and adapter → adapted model, as learnt from the engine."""
        endpoint.adapters = adapters or {}
        if endpoint.models != models:
            endpoint.models = dict(models)
            self._changed()

    def set_draining(self, endpoint: Endpoint, draining: bool) -> None:
        endpoint.draining = draining
        if draining:
            self._serving.pop(endpoint, None)
        self._changed()

    def derate(self, endpoint: Endpoint, part: float) -> None:
        """Leave it that part of its weight, from 0 to 1 and not 0."""
        endpoint.weight *= part / endpoint.derating
        endpoint.derating = part
        self._changed()

    # What callers ask

    @property
    def models(self) -> list[str]:
        """Every public model name of the pool, without aliases, whether ready or not."""
        if self._models is None:
            self._models = {model: None for endpoint in self for model in endpoint.models}
        return list(self._models)

    @property
    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def resolve(self, name: str) -> str | None:
        """The public model behind a name or alias; None if no endpoint serves it."""
        if self._models is None:
            self._models = {model: None for endpoint in self for model in endpoint.models}
        if name in self._models:
            return name
        target = self._aliases.get(name)
        return target if target in self._models else None

    def may_come(self, name: str) -> bool:
        """Whether a name that nobody serves now may be served once all members have come up: it is configured, or
        there is a member that has not said yet what it serves, or none at all."""
        configured = name in self._aliases or name in self._aliases.values()
        return configured or not self._endpoints or not all(each.models for each in self)

    def ready(self, model: str, now: float) -> tuple[Endpoint, ...]:
        """Endpoints of `model` that may take a request now.

        When none is left, those that were ejected only for bad answers: the engine's own error tells the client more
        than a 503 of ours, and a false ejection of the last endpoint would be an outage of our making.
        """
        if now >= self._next_tick:
            self._tick(now)
        ready = self._ready.get(model)
        if ready is None:
            members = [e for e in self if model in e.models and not e.draining]
            ready = tuple(e for e in members if e.health.available) or tuple(e for e in members if e.health.last_resort)
            if members:  # never cache names that clients invent
                self._ready[model] = ready
        return ready

    def any_ready(self, now: float) -> bool:
        return any(self.ready(model, now) for model in self.models)

    def refresh(self, now: float) -> None:
        """Time has passed: ejections end, loads fade, slow starts go on. For those who look without asking for a
        ready endpoint."""
        if now >= self._next_tick:
            self._tick(now)

    def _tick(self, now: float) -> None:
        elapsed = max(now - self._aged_at, 0.0)
        self._aged_at = now
        for endpoint in self:
            endpoint.health.tick(now)
            endpoint.load.age(elapsed)
        if self._health.slow_start:
            self._warm(now)
        ejections = (e.health.until for e in self if e.health.state is State.EJECTED)
        self._next_tick = min((now + AGE_SECONDS, *ejections))

    def _warm(self, now: float) -> None:
        """Give each endpoint the part of its weight that its slow start has come to."""
        shares: dict[Endpoint, float] = {}
        warmest: dict[str, float] = {}  # by model
        for endpoint in self:
            if endpoint.health.state is not State.UP or endpoint.draining:
                continue
            this_time, since = self._serving.get(endpoint, (0, now))
            if this_time != endpoint.health.entered:
                since = now
                self._serving[endpoint] = (endpoint.health.entered, now)
            share = shares[endpoint] = min(max((now - since) / self._health.slow_start, FIRST_SHARE), 1.0)
            for model in endpoint.models:
                warmest[model] = max(warmest.get(model, 0.0), share)
        for endpoint in self:  # one that is half open takes one request, whatever its weight
            share = shares.get(endpoint, FIRST_SHARE)
            most = max((warmest.get(model, share) for model in endpoint.models), default=share)
            endpoint.weight = endpoint.spec.weight * endpoint.derating * share / most

    def _changed(self) -> None:
        self._ready.clear()
        self._models = None
        self._next_tick = -math.inf  # there may be an ejection that ends sooner
