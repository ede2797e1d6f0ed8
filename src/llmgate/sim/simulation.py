"""One policy on one workload, in virtual time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from llmgate.core.hardware import prior_weight
from llmgate.core.pool import EndpointPool
from llmgate.core.protocols import Router
from llmgate.core.scheduler import Scheduler
from llmgate.core.types import Endpoint, EndpointSpec
from llmgate.engines.engine import Engine
from llmgate.engines.spec import EngineSpec, parse_specs
from llmgate.sim.agenda import Agenda
from llmgate.sim.flight import Host
from llmgate.sim.incidents import Action, Incident, free_name
from llmgate.sim.kv_events import KvFeed, trace_block_tokens
from llmgate.sim.pace import PacedEngine
from llmgate.sim.record import Recorder, RequestTable
from llmgate.sim.series import EngineSeries, Sampler
from llmgate.sim.settings import Settings
from llmgate.sim.shell import Shell
from llmgate.sim.watch import Watch
from llmgate.sim.world import SeeingRouter
from llmgate.workloads.types import Workload

Judge = Callable[[Recorder, int], bool]
"""Told after each request's end, by its index; True gives the run up."""


GOLDEN = 0.381966
"""The golden section: multiples of it, modulo 1, keep apart however many there are."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has brought."""

    requests: RequestTable
    engines: tuple[EngineSeries, ...]
    failures: dict[str, int]  # reason in plain words → requests
    preemptions: int
    imbalance: float  # see Sampler
    given_up: bool  # by the judge: what had not ended is as if it had failed


class Simulation:
    """Built for one run. The workload and the profiles are only read: they may be shared by many."""

    def __init__(
        self,
        workload: Workload,
        fleet: Sequence[EngineSpec],
        router: Router,
        settings: Settings = Settings(),  # noqa: B008  (frozen)
        *,
        incidents: Sequence[Incident] = (),
        judge: Judge | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._requests = workload.requests
        self._settings = settings
        self._make_engine = PacedEngine if any(each.action is Action.SLOW for each in incidents) else Engine
        # caches that nobody asks about are not told of
        self._block_tokens = trace_block_tokens(workload) if settings.kv_events and router.needs_prefix else None
        self._judge = judge
        self._progress = progress
        self._agenda = Agenda()
        self._sampler = Sampler()
        self._all_hosts: list[Host] = []  # those that left, too
        self._hosts: dict[Endpoint, Host] = {}
        self._left_over = len(self._requests)
        self._given_up = False
        self._now = 0.0
        self._pool = EndpointPool(health=settings.health)
        self._recorder = Recorder(
            [each.prompt_tokens for each in self._requests], [each.output_tokens for each in self._requests]
        )
        scheduler = self._scheduler = Scheduler(self._pool, router, seed=settings.seed)
        self._shell = Shell(scheduler, self._hosts, self._recorder, self._agenda, settings, self._request_ended)
        self._watch = Watch(self._shell, self._agenda, settings)
        for number, spec in enumerate(fleet):
            self._add(spec, 0.0, serves_from=-math.inf, offset=(number + 0.5) / len(fleet))
        if isinstance(router, SeeingRouter):
            router.see(self._shell)
        self._default_model = fleet[0].profile.model if fleet else ""
        self._estimates = _estimates(workload, settings)
        self._followers: defaultdict[int, list[int]] = defaultdict(list)
        for incident in incidents:
            self._agenda.enter(incident.at, partial(self._strike, incident))
        self._enter_arrivals()
        self._agenda.enter(0.0, self._sample)

    def run(self) -> Outcome:
        """Until every request has ended."""
        agenda = self._agenda
        while self._left_over and not self._given_up:
            at, action = agenda.next()
            now = self._now = max(self._now, at)
            action(now)
        assert self._given_up or not self._scheduler.ledger.open_charges
        return Outcome(
            self._recorder.table(),
            tuple(self._sampler.series(host) for host in self._all_hosts),
            dict(Counter(self._shell.failures)),
            sum(host.preempted for host in self._all_hosts),
            self._sampler.imbalance,
            self._given_up,
        )

    # Requests ---------------------------------------------------------------------------------------------------------

    def _enter_arrivals(self) -> None:
        for index, request in enumerate(self._requests):
            if request.after is None:
                self._agenda.enter(request.at, partial(self._arrive, index))
            else:
                self._followers[request.after].append(index)

    def _arrive(self, index: int, now: float) -> None:
        request = self._requests[index]
        model = request.model or self._default_model
        self._shell.arrive(index, request, model, self._estimates[index], now)

    def _request_ended(self, index: int, at: float) -> None:
        """A client that waited for this one, thinks and asks again; also if what it got was an error."""
        for follower in self._followers.pop(index, ()):
            self._agenda.enter(at + self._requests[follower].think_s, partial(self._arrive, follower))
        self._left_over -= 1
        if self._judge is not None and self._judge(self._recorder, index):
            self._given_up = True
        if self._progress is not None:
            self._progress(1)

    # Engines ----------------------------------------------------------------------------------------------------------

    def _add(self, spec: EngineSpec, now: float, *, serves_from: float, offset: float) -> None:
        endpoint = self._pool.add(endpoint_spec(spec))
        endpoint.engine = "vllm"
        engine = self._make_engine(spec.profile, cache_events=self._block_tokens is not None)
        host = Host(len(self._all_hosts), endpoint, engine, serves_from)
        if self._block_tokens is not None:
            size = max(self._block_tokens, spec.profile.block_tokens)
            index = self._scheduler.block_index
            host.feed = KvFeed(index, endpoint.slot, size, self._settings.kv_event_latency)
        host.engine.advance(now)
        self._all_hosts.append(host)
        self._hosts[endpoint] = host
        self._watch.begin(host, now, offset=offset, warm=serves_from <= now)

    def _strike(self, incident: Incident, now: float) -> None:
        if incident.action is Action.JOIN:
            self._join(incident.target, now)
            return
        host = next((host for host in self._hosts.values() if host.endpoint.name == incident.target), None)
        if host is None or host.serves_from == math.inf:
            return  # it has gone before
        if incident.action is Action.KILL:
            self._shell.lose(host, now, serves_from=math.inf)
        elif incident.action is Action.RESTART:
            self._shell.lose(host, now, serves_from=now + host.engine.profile.startup_s)
        elif incident.action is Action.SLOW:
            self._shell.catch_up(now)
            if isinstance(host.engine, PacedEngine):  # all are that, where any is to be slowed
                host.engine.slow(incident.amount, now)
            self._shell.wake(host)
        else:
            self._pool.set_draining(host.endpoint, True)
            self._agenda.enter(now + incident.amount, partial(self._reclaim, host))

    def _join(self, target: str, now: float) -> None:
        for spec in parse_specs(target):
            name = free_name(spec.name, {host.endpoint.name for host in self._all_hosts})
            offset = (len(self._all_hosts) * GOLDEN) % 1.0
            self._add(replace(spec, name=name), now, serves_from=now + spec.profile.startup_s, offset=offset)

    def _reclaim(self, host: Host, now: float) -> None:
        """The notice is over: the instance goes, with what is still open, and the gateway is told to forget it."""
        if host.left:
            return  # it was given notice twice
        self._shell.lose(host, now, serves_from=math.inf)
        host.left = True
        self._scheduler.remove(host.endpoint.name)
        del self._hosts[host.endpoint]

    def _sample(self, now: float) -> None:
        self._sampler.sample(self._hosts.values(), now)
        self._agenda.enter(now + self._settings.sample_period, self._sample)


def endpoint_spec(spec: EngineSpec) -> EndpointSpec:
    """How the gateway's configuration would name it: with its GPU, which gives its prior weight."""
    profile = spec.profile
    weight = prior_weight(profile.gpu, profile.gpus) if profile.gpu else None
    return EndpointSpec(
        name=spec.name,
        url=f"http://{spec.name}:8000",
        weight=float(profile.gpus) if weight is None else weight,
        engine="vllm",
        models={profile.model: profile.model},
        gpu=profile.gpu or None,
    )


def _estimates(workload: Workload, settings: Settings) -> list[int]:
    """Prompt tokens as the gateway estimates them. A request's error depends on the seed and its place alone, so it is
    the same under every policy."""
    true = np.array([request.prompt_tokens for request in workload.requests], dtype=np.float64)
    if settings.estimate_error and not settings.kv_events:
        draws = np.random.Generator(np.random.PCG64(settings.seed)).standard_normal(len(true))
        true = true * np.exp(settings.estimate_error * draws)
    return [max(1, round(tokens)) for tokens in true.tolist()]
