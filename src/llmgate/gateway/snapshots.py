"""Puts a snapshot together: what the pool, the rates, the GPUs and the last decisions say now."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from llmgate.core.gpus import Gpus
from llmgate.core.scheduler import Scheduler
from llmgate.gateway.live_views import (
    BriefDecision,
    GatewayView,
    HistoriesView,
    HistoryView,
    LiveEndpoint,
    Snapshot,
    TotalsView,
)
from llmgate.telemetry.rates import Rates

SHOWN_DECISIONS = 8


class Snapshots:
    """`clock` is the scheduler's monotonic clock, `wall_clock` the Unix time, both in seconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        rates: Rates,
        gpus: Gpus,
        gateway: Callable[[], GatewayView],
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._rates = rates
        self._gpus = gpus
        self._gateway = gateway
        self._clock = clock
        self._wall_clock = wall_clock

    def sample(self) -> None:
        """To be called once a second."""
        self._rates.sample()

    def take(self, *, history: bool) -> Snapshot:
        now, pool = self._clock(), self._scheduler.pool
        pool.refresh(now)
        endpoints = [LiveEndpoint.of(each, self._rates.of(each), self._gpus.of(each), now) for each in pool]
        last = islice(reversed(self._scheduler.decisions), SHOWN_DECISIONS)
        return Snapshot(
            time=self._wall_clock(),
            gateway=self._gateway(),
            totals=TotalsView.of(endpoints, self._rates.of_all(), self._rates.rejected),
            endpoints=endpoints,
            decisions=[BriefDecision.of(decision, now) for decision in last],
            history=self._history() if history else None,
        )

    def _history(self) -> HistoriesView:
        whole, by_endpoint = self._rates.history()
        return HistoriesView(
            totals=HistoryView.of(whole),
            endpoints={name: HistoryView.of(points) for name, points in by_endpoint.items()},
        )
