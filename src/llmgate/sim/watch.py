"""What the gateway's probes and scrapes would tell it: periodic, each engine at its own moment, and a little old."""

from __future__ import annotations

from functools import partial

from llmgate.core.health import State
from llmgate.core.types import FRESH_SECONDS, EndpointMetrics
from llmgate.sim.agenda import Agenda
from llmgate.sim.flight import Host
from llmgate.sim.settings import Settings
from llmgate.sim.shell import Shell

LIFETIME_PERIODS = 5
"""A reading is current for so many scrape periods, if that is more than FRESH_SECONDS: as probes/scrape.py has it."""


class Watch:
    """The gateway's monitor of its engines (probes/monitor.py)."""

    def __init__(self, shell: Shell, agenda: Agenda, settings: Settings) -> None:
        self._shell = shell
        self._agenda = agenda
        self._settings = settings
        self._lifetime = max(FRESH_SECONDS, LIFETIME_PERIODS * settings.scrape_period)

    def begin(self, host: Host, now: float, *, offset: float, warm: bool) -> None:
        """Watch an engine. `offset` (0..1): where in each period its turn is. `warm`: the gateway knows it already."""
        settings = self._settings
        if warm:
            host.endpoint.health.probe_passed()
            self._follow(host)
            self._read(host, now)
            host.show_reading()
        self._agenda.enter(now + offset * settings.scrape_period, partial(self._scrape, host))
        first_probe = offset * settings.probe_period if warm else 0.0
        self._agenda.enter(now + first_probe, partial(self._probe, host))

    def _probe(self, host: Host, now: float) -> None:
        if host.left:
            return
        health, settings = host.endpoint.health, self._settings
        if host.serves_from <= now:
            if health.state is not State.UP:
                host.endpoint.metrics = None  # it may be another process than before: learn all again
            health.probe_passed()
            self._follow(host)
        else:
            health.probe_failed("connection refused")
        period = settings.probe_period if health.state is State.UP else settings.probe_period_while_not_up
        self._agenda.enter(now + period, partial(self._probe, host))

    @staticmethod
    def _follow(host: Host) -> None:
        if host.feed is not None:
            host.feed.connect()

    def _scrape(self, host: Host, now: float) -> None:
        if host.left:
            return
        if host.serves_from <= now and host.endpoint.health.state not in (State.STARTING, State.DOWN):
            if host.open:
                self._shell.advance(host, now)
            self._read(host, now)
        self._agenda.enter(now + self._settings.scrape_period, partial(self._scrape, host))

    def _read(self, host: Host, now: float) -> None:
        """What vLLM's page says. It does not say how many requests the engine runs at once."""
        gauges = host.engine.gauges()
        host.reading = EndpointMetrics(
            now,
            gauges.running,
            gauges.waiting,
            gauges.kv_usage,
            host.engine.profile.kv_tokens,
            lifetime=self._lifetime,
        )
        host.reading_due = now + self._settings.scrape_latency
