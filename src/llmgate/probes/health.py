"""The active health check of one endpoint, which also learns what the engine is and serves."""

from __future__ import annotations

import logging

from llmgate.core.health import State
from llmgate.core.pool import EndpointPool
from llmgate.core.types import Endpoint
from llmgate.probes.learn import detect, list_models
from llmgate.probes.page import MISSING, Ask, Fetch, Pace, Page, ProbeFailed, answered, asker
from llmgate.wire.engines import ENGINES, GENERIC

FIRST_DELAYS = (0.1, 0.2, 0.4, 0.8)
"""Seconds between the first probes, so that a gateway started with its engines is ready a moment after them."""

DELAY_WHILE_NOT_UP = 1.0

MODELS_EVERY = 6
"""Models are listed again with each so many probes: every 30 s by default. LoRA adapters come and go.

An engine that could not be asked for every clue is then looked at again, too."""

logger = logging.getLogger("llmgate.probes")


class HealthProbe:
    """Call it for one probe. `times_learnt` counts the starts of the engine, as far as they were noticed; `known` says
    that it has answered since."""

    def __init__(self, pool: EndpointPool, endpoint: Endpoint, fetch: Fetch, pace: Pace) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._ask: Ask = asker(fetch, endpoint, pace.timeout)
        self._pace = pace
        self._first_delays = iter(FIRST_DELAYS)
        self._was_up = False
        self._probes_since_models = 0
        self._reported: tuple[object, ...] = ()
        self._unsure = False  # of the make of the engine
        self.known = False
        self.times_learnt = 0

    def interval(self) -> float:
        """Seconds until the next probe."""
        if self._endpoint.health.state is State.UP:
            return self._pace.interval
        return min(next(self._first_delays, DELAY_WHILE_NOT_UP), self._pace.interval)

    def forget(self) -> None:
        """The engine was away, so it may have restarted as something else: the next probe asks again."""
        self.known = False

    def asleep(self) -> None:
        """The engine says that it sleeps. It is still the same when it wakes, so nothing is forgotten."""
        self._endpoint.health.probe_failed("asleep", certain=True)
        self._report()

    async def __call__(self) -> None:
        health = self._endpoint.health
        if self._was_up and health.state is not State.UP:
            self.forget()
        try:
            await self._check()
        except ProbeFailed as failure:
            if failure.ours:
                logger.warning("%s cannot be probed: %s", self._endpoint.name, failure)
            else:
                self._failed(str(failure))
        except Exception as error:
            self._failed(f"the probe broke off: unexpected {type(error).__name__}")  # its text might hold anything
            raise
        else:
            metrics = self._endpoint.metrics
            if metrics is not None and metrics.asleep:
                self.asleep()
            else:
                health.probe_passed()
                self._report()

    def _failed(self, reason: str) -> None:
        self.forget()
        self._endpoint.health.probe_failed(reason)
        self._report()

    async def _check(self) -> None:
        """Raises ProbeFailed when the endpoint should not be given work."""
        self._probes_since_models += 1
        if self._unsure and self._probes_since_models >= MODELS_EVERY:
            self.forget()
        engine = self._endpoint.spec.engine or (self._endpoint.engine if self.known else None)
        path = "/health" if engine is None else ENGINES[engine].health_path
        page = await self._ask(path)
        if engine is None:
            if page.status != 200 and page.status not in MISSING:
                raise answered(path, page)
        elif not self._healthy(engine, page):
            raise answered(path, page)
        if not self.known:
            await self._learn(engine, path, page)
        elif self._probes_since_models >= MODELS_EVERY:
            await self._refresh_models()

    def _healthy(self, engine: str, page: Page) -> bool:
        if engine == GENERIC and self._endpoint.spec.models is not None and page.status in MISSING:
            return True  # it answers, and its models are stated: it owes us no list of them
        return page.status == 200

    async def _learn(self, engine: str | None, path: str, page: Page) -> None:
        self.known = True  # before any question, so that a `forget` meanwhile counts
        if engine is None:
            detected = await detect(self._ask)
            self._unsure = detected is None
            engine = detected or GENERIC
            if path == ENGINES[engine].health_path and page.status != 200:
                raise answered(path, page)
        await self._refresh_models()
        self._endpoint.engine = engine  # only now: what serves no models is no engine of any make
        self._endpoint.metrics = None  # they were those of the engine before
        self.times_learnt += 1

    async def _refresh_models(self) -> None:
        self._probes_since_models = 0
        if self._endpoint.spec.models is None:
            listed = await list_models(self._ask)
            self._pool.set_models(self._endpoint, {name: name for name in listed.ids}, listed.parents)

    def _report(self) -> None:
        """Log each state once, not each probe."""
        endpoint, health = self._endpoint, self._endpoint.health
        self._was_up = health.state is State.UP
        now = (health.state, health.reason, endpoint.engine, tuple(endpoint.models))
        if health.state is State.UP:
            if now != self._reported:
                logger.info("%s is up (%s, models: %s)", endpoint.name, endpoint.engine, ", ".join(endpoint.models))
        elif now[:2] != self._reported[:2] and health.state is not State.HALF_OPEN:
            word = "not up yet" if health.state is State.STARTING else health.state.value
            logger.warning("%s is %s: %s", endpoint.name, word, health.reason)
        if health.state is not State.HALF_OPEN:
            self._reported = now
