"""The same requests on the engine model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from benchmarks.sim_validation.measurement import Floats, Timings, Workload, timings
from llmgate.engines.engine import Engine
from llmgate.engines.profile import EngineProfile
from llmgate.engines.request import EngineEvent, EventKind


def replay(profile: EngineProfile, workload: Workload, seconds: Floats) -> Timings:
    """Gauges are read at `seconds`."""
    engine = Engine(profile)
    moments = [(at, 1, n) for n, at in enumerate(workload.arrivals)] + [(float(at), 0, 0) for at in seconds]
    events: list[EngineEvent] = []
    gauges: list[tuple[float, float, float]] = []
    for at, is_arrival, n in sorted(moments):
        events += engine.advance(at)
        if is_arrival:
            engine.submit(replace(workload.requests[n]), at)
        else:
            now = engine.gauges()
            gauges.append((at, now.running, now.waiting))
    while (due := engine.next_event()) < math.inf:
        events += engine.advance(due)
    first, last = np.zeros(len(workload.requests)), np.zeros(len(workload.requests))
    for event in events:
        if event.kind is EventKind.FIRST_TOKEN:
            first[event.request.id] = event.at
        elif event.kind is EventKind.FINISHED:
            last[event.request.id] = event.at
        elif event.kind is EventKind.REJECTED:
            raise ValueError(f"request {event.request.id} does not fit the profile {profile.name}")
    outputs = np.array([request.output_tokens for request in workload.requests], dtype=float)
    return timings(first, last, np.array(workload.arrivals), outputs, np.array(gauges).reshape(-1, 3))
