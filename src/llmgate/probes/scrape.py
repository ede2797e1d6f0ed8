"""Reads one endpoint's own gauges. What cannot be read is left to age: EndpointMetrics.fresh tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from llmgate.core.health import State
from llmgate.core.types import FRESH_SECONDS, Endpoint, EndpointMetrics
from llmgate.probes.page import MISSING, Ask, Fetch, Pace, Page, ProbeFailed, answered, asker
from llmgate.wire.engine_metrics import PageTooLarge, parse_metrics
from llmgate.wire.engines import ENGINES, EngineKind, Facts

DELAY_WHILE_OFF = 60.0
"""Seconds between looks at an engine whose metrics are switched off."""

LIFETIME_PERIODS = 5
"""A reading is current for so many scrape periods, if that is more than FRESH_SECONDS."""

logger = logging.getLogger("llmgate.probes")


class Starts(Protocol):
    """What the scraper needs of the endpoint's HealthProbe."""

    times_learnt: int
    known: bool

    def forget(self) -> None: ...
    def asleep(self) -> None: ...


class Scraper:
    """Call it for one reading."""

    def __init__(self, endpoint: Endpoint, fetch: Fetch, pace: Pace, clock: Callable[[], float], probe: Starts) -> None:
        self._endpoint = endpoint
        self._ask: Ask = asker(fetch, endpoint, pace.timeout)
        self._pace = pace
        self._lifetime = max(FRESH_SECONDS, LIFETIME_PERIODS * pace.interval)
        self._clock = clock
        self._probe = probe
        self._start_afresh()

    def _start_afresh(self) -> None:
        """The engine has (re)started: what was found out about it counts no more."""
        self._start = self._probe.times_learnt
        self._paths: tuple[str, ...] = ENGINES[self._endpoint.engine].metrics_paths if self._endpoint.engine else ()
        self._off = False
        self._facts = Facts()
        self._facts_asked = False
        self._logged: set[str] = set()

    def interval(self) -> float:
        """Seconds until the next reading."""
        return DELAY_WHILE_OFF if self._off else self._pace.interval

    async def __call__(self) -> None:
        engine, state = self._endpoint.engine, self._endpoint.health.state
        if engine is None or state is State.STARTING or (state is State.DOWN and not self._probe.known):
            return
        if self._start != self._probe.times_learnt:
            self._start_afresh()
        at = self._clock()
        try:
            page = await self._page()
            if page is None:
                return
            reading = parse_metrics(engine, page.body, at)
        except (ProbeFailed, PageTooLarge) as failure:
            if isinstance(failure, ProbeFailed) and failure.unreachable:
                self._probe.forget()
            self._log_once(logging.WARNING, f"its metrics cannot be read: {failure}")
            return
        if reading.running is None and reading.waiting is None and reading.kv_usage is None:
            self._log_once(logging.WARNING, f"its metrics hold none of the gauges that are known of {engine}")
        reading = await self._with_facts(ENGINES[engine], reading)
        if self._start != self._probe.times_learnt:
            return  # what was read belongs to the engine before
        self._endpoint.metrics = replace(reading, lifetime=self._lifetime)
        if reading.asleep:
            self._probe.asleep()

    async def _page(self) -> Page | None:
        """The metrics page; None when there is none to be had. Paths that are missing are not tried again."""
        while self._paths:
            page = await self._ask(self._paths[0])
            if page.status == 200:
                self._off = False
                return page
            if page.status not in MISSING:
                raise answered(self._paths[0], page)
            if len(self._paths) == 1:
                self._off = True
                self._log_once(logging.INFO, f"its metrics are off ({self._paths[0]} answered {page.status})")
                return None
            self._paths = self._paths[1:]
        return None

    async def _with_facts(self, kind: EngineKind, reading: EndpointMetrics) -> EndpointMetrics:
        """What does not change while an engine runs is kept, and asked for once where metrics do not tell."""
        self._facts = Facts(reading.kv_capacity_tokens, reading.max_running).or_else(self._facts)
        if kind.facts_page is not None and not self._facts_asked and not self._facts.complete:
            path, parse = kind.facts_page
            try:
                page = await self._ask(path)
            except ProbeFailed:
                pass  # asked again with the next reading
            else:
                self._facts_asked = True
                if page.status == 200:
                    self._facts = self._facts.or_else(parse(page.body))
        return replace(reading, kv_capacity_tokens=self._facts.kv_capacity_tokens, max_running=self._facts.max_running)

    def _log_once(self, level: int, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.log(level, "%s: %s", self._endpoint.name, what)
