"""Workloads made from others: faster, shorter, longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from llmgate.workloads.errors import WorkloadError
from llmgate.workloads.types import TraceRequest, Workload


def scaled(workload: Workload, rate_scale: float) -> Workload:
    """Arrivals come `rate_scale` times as often; think times stay. Raises WorkloadError unless it is above 0."""
    if not 0 < rate_scale < float("inf"):
        raise WorkloadError(f"the rate scale must be above 0, not {rate_scale}")
    if rate_scale == 1:
        return workload
    return _with(workload, [replace(request, at=request.at / rate_scale) for request in workload.requests])


def first(workload: Workload, count: int) -> Workload:
    """The first `count` requests."""
    return _with(workload, workload.requests[: max(0, count)])


def window(workload: Workload, start: float, end: float) -> Workload:
    """The requests with `start` <= at < `end` (seconds), counted from `start`; see `keeping` for chains cut by it."""
    kept = keeping(workload.requests, lambda request: start <= request.at < end)
    return _with(workload, [replace(request, at=request.at - start) for request in kept])


def repeat(workload: Workload, times: int) -> Workload:
    """The workload `times` times, one after the other, with blocks and sessions of its own each time.

    So that N times the requests are N times the work. The blocks are written out: a session's no longer share memory.
    """
    requests = workload.requests
    if not requests:
        return workload
    offset = 1 + max((max(request.blocks) for request in requests if request.blocks), default=0)
    span = requests[-1].at * (1 + 1 / len(requests))  # and the mean gap
    copies = list(requests)
    for copy in range(1, times):
        copies += [
            replace(
                request,
                at=request.at + copy * span,
                blocks=tuple(block + copy * offset for block in request.blocks),
                session=request.session and f"{request.session}#{copy}",
                after=None if request.after is None else request.after + copy * len(requests),
            )
            for request in requests
        ]
    return _with(workload, ordered(copies) if times > 1 else copies)


def keeping(requests: Sequence[TraceRequest], keep: Callable[[TraceRequest], bool]) -> list[TraceRequest]:
    """Those for which `keep` holds. `requests` are in order.

    A kept request that waited on a dropped one waits on the nearest kept one before that, and thinks for all of them;
    if there is none, it arrives at its own `at`.
    """
    kept: list[TraceRequest] = []
    places: list[int | None] = []  # of a dropped request: the place of the one it comes after
    thinking: list[float] = []  # what a request adds to that of those after it: 0 if it is kept
    for request in requests:
        after, think = None, 0.0
        if request.after is not None:
            after = places[request.after]
            think = request.think_s + thinking[request.after] if after is not None else 0.0
        if keep(request):
            places.append(len(kept))
            thinking.append(0.0)
            kept.append(replace(request, after=after, think_s=think))
        else:
            places.append(after)
            thinking.append(think)
    return kept


def ordered(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    """By `at`, equal ones as they are; `after` is put right, in place. No request may be before what it waits on."""
    order = sorted(range(len(requests)), key=lambda index: requests[index].at)
    places = [0] * len(order)
    for place, index in enumerate(order):
        places[index] = place
    found = [requests[index] for index in order]
    for request in found:
        if request.after is not None:
            request.after = places[request.after]
    return found


def _with(workload: Workload, requests: list[TraceRequest]) -> Workload:
    return replace(workload, requests=requests)
