"""Sessions of a coding agent (github.com/callanjfox/kv-cache-tester): one session a line, replayed in a closed loop.

Each request names the blocks of its prompt by what it keeps of the one before it and what it adds, in ids that are the
session's own. A session's ids are laid out once and its requests look at the beginning of them (`memoryview`, 8 bytes a
block): all 424 sessions have 56 million blocks in their prompts and 4.9 million ids (39 MB) in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from llmgate.workloads.arrivals import arrivals
from llmgate.workloads.edits import keeping, ordered
from llmgate.workloads.errors import BadLine
from llmgate.workloads.lines import MAX_TOKENS, Lines, decoder
from llmgate.workloads.options import check
from llmgate.workloads.types import TraceRequest, Workload

MAX_PROMPT = 1 << 24
"""Tokens: as many block ids can be asked for by one short line, so that it must not be billions."""

MAX_NESTING = 50
"""Subagents within subagents: recorded ones go one deep, and what follows them here is recursive."""

_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Tokens = Annotated[int, Meta(ge=0, le=MAX_PROMPT)]
_Count = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class _Call(msgspec.Struct, gc=False):
    """A request, or (with `requests`) a whole subagent, which has its own."""

    t: _Seconds  # since the session's, or the subagent's, start
    type: str
    prompt: _Tokens | None = msgspec.field(name="in", default=None)
    out: _Tokens | None = None
    keep: _Count = 0
    add: list[tuple[_Count, _Count]] = []
    api_time: _Seconds = 0.0  # from sending it to the end of its answer
    think_time: _Seconds | None = None
    tool_tokens: _Tokens = 0
    system_tokens: _Tokens = 0
    requests: list[_Call] | None = None


class _Session(msgspec.Struct, gc=False):
    id: str
    block_size: Annotated[int, Meta(ge=1, le=1 << 20)]
    requests: Annotated[list[_Call], Meta(min_length=1)]
    tool_tokens: _Tokens = 0
    system_tokens: _Tokens = 0


def read(
    path: Path,
    *,
    seed: int,
    skip_bad: bool,
    sessions: int | None = None,
    session_rate: float = 0.1,
    max_model_len: int | None = None,
    max_think_s: float = 600.0,
    shared_system: bool = True,
) -> Workload:
    """Closed loop: each request comes `think_time` after the answer before it, a subagent's first one after the
    request that started it.

    `sessions`: a seeded sample of so many. They begin as a Poisson process of `session_rate` a second (the recording
    does not say when they did). `max_model_len`: requests whose prompt and answer would not fit are dropped and
    counted, and what waited on them waits on the one before. `max_think_s`: longer pauses are cut to this, for some
    last a day. `shared_system`: sessions whose tool definitions have the same number of tokens share their blocks, and
    those of the system prompt too if that has as many tokens; the counts are exact, that the texts are equal is
    inferred.
    """
    check(sessions is None or sessions >= 1, "sessions", "must be at least 1")
    check(max_model_len is None or max_model_len >= 1, "max_model_len", "must be at least 1")
    check(session_rate > 0, "session_rate", "must be above 0")
    check(max_think_s >= 0, "max_think_s", "must not be negative")
    lines = Lines(path, skip_bad=skip_bad)
    chosen = _sampled(lines.read(decoder(_Session)), sessions, Random(f"{seed}:sessions"))
    begins = arrivals(Random(f"{seed}:arrivals"), session_rate)
    build = _Builder(max_think_s, shared_system)
    for number, session in chosen:
        try:
            build.session(session, next(begins))
        except BadLine as bad:
            lines.bad(number, bad)
    requests = ordered(build.requests)
    dropped = Counter(lines.dropped())

    def fits(request: TraceRequest) -> bool:
        reason = None
        if request.output_tokens < 1 or request.prompt_tokens < 1:
            reason = "no prompt or no output tokens"
        elif max_model_len is not None and request.prompt_tokens + request.output_tokens > max_model_len:
            reason = f"prompt and output beyond {max_model_len} tokens"
        if reason:
            dropped[reason] += 1
        return reason is None

    return Workload(path.name, keeping(requests, fits), dict(dropped))


def _sampled(read: Iterator[tuple[int, _Session]], count: int | None, random: Random) -> list[tuple[int, _Session]]:
    """`count` of them, each as likely, in the order of the file, never holding more (Waterman's reservoir)."""
    chosen: list[tuple[int, _Session]] = []
    for seen, entry in enumerate(read):
        if count is None or seen < count:
            chosen.append(entry)
        elif (place := random.randrange(seen + 1)) < count:
            chosen[place] = entry
    chosen.sort(key=lambda entry: entry[0])
    return chosen


class _Before(NamedTuple):
    """The request that the next one waits on."""

    place: int  # in the builder's list
    recorded: float  # when its answer ended in the recording
    ended: float  # and when with pauses cut


@dataclass(slots=True)
class _Builder:
    """Sessions → requests, with chain ids that are unique over all of them."""

    max_think_s: float
    shared_system: bool
    requests: list[TraceRequest] = field(default_factory=list)
    _next_id: int = 0  # the first chain id that is no one's yet
    _shared: dict[tuple[int, ...], int] = field(default_factory=dict)  # what is shared → its first chain id

    def session(self, session: _Session, begin: float) -> None:
        """Append the session's requests. Raises BadLine, and then appends none."""
        _check(session.requests, session.block_size)
        base = self._take(1 + _last_id(session.requests))
        self._agent(session, session, session.requests, base, begin, None)

    def _agent(
        self,
        session: _Session,
        agent: _Session | _Call,
        calls: list[_Call],
        base: int,
        begin: float,
        before: _Before | None,
    ) -> None:
        """Append the requests of one agent, each after the one before it, and of the agents that it calls."""
        views = iter(self._views(agent, [call for call in calls if call.requests is None], session.block_size, base))
        first = True
        for call in calls:
            if call.requests is not None:
                self._agent(session, call, call.requests, base, begin + call.t, before)
                continue
            at, think = begin + call.t, 0.0
            if before is not None:
                recorded = max(0.0, at - before.recorded)
                think = recorded if first or call.think_time is None else call.think_time
                think = min(think, self.max_think_s)
                at = before.ended + think
            first = False
            self.requests.append(
                TraceRequest(
                    at,
                    call.prompt or 0,
                    call.out or 0,
                    blocks=next(views),
                    block_tokens=session.block_size,
                    session=session.id,
                    after=before.place if before else None,
                    think_s=think,
                )
            )
            before = _Before(len(self.requests) - 1, begin + call.t + call.api_time, at + call.api_time)

    def _views(self, agent: _Session | _Call, calls: list[_Call], size: int, base: int) -> Iterator[memoryview]:
        """The blocks of each request.

        A request that keeps all of the one before it goes on in the same array; one that keeps less begins a copy. The
        answer's blocks count with the prompt's where the next request keeps all and grows by at least the answer.
        """
        ids = array("Q")
        placed: list[tuple[array[int], int]] = []  # (array, blocks of it)
        shared: dict[int, int] = {}  # the session's own id → the one that stands for it, when it comes again
        last_shared = -1
        for number, call in enumerate(calls):
            if call.keep < len(ids):
                ids = ids[: call.keep]
            elif number and (call.prompt or 0) >= (answered := _end(calls[number - 1])):
                placed[-1] = (ids, answered // size)
            for start, count in call.add:
                run = range(base + start, base + start + count)
                ids.extend((shared.get(block, block) for block in run) if run.start <= last_shared else run)
            if not number and self.shared_system:
                shared = self._share(ids, agent, size)
                last_shared = max(shared, default=-1)
            placed.append((ids, len(ids)))
        return (memoryview(ids)[:blocks] for ids, blocks in placed)

    def _share(self, ids: array[int], agent: _Session | _Call, size: int) -> dict[int, int]:
        """Give the tool definitions and the system prompt at the start of `ids` the chain ids of equal ones. Returns
        old id → new id."""
        own = ids[:]
        tools = min(len(ids), agent.tool_tokens // size)
        both = min(len(ids), (agent.tool_tokens + agent.system_tokens) // size)
        for key, start, end in (
            ((size, agent.tool_tokens), 0, tools),
            ((size, agent.tool_tokens, agent.system_tokens), tools, both),
        ):
            if key not in self._shared:
                self._shared[key] = self._take(end - start)
            ids[start:end] = array("Q", range(self._shared[key], self._shared[key] + end - start))
        return dict(zip(own[:both], ids, strict=False))

    def _take(self, count: int) -> int:
        """The first of `count` chain ids that are no one else's."""
        start, self._next_id = self._next_id, self._next_id + count
        return start


def _check(calls: list[_Call], size: int, nesting: int = 0) -> None:
    """Raises BadLine unless the blocks of one agent's requests, and of those it calls, can be laid out."""
    if nesting > MAX_NESTING:
        raise BadLine(f"requests[...]: subagents nested deeper than {MAX_NESTING}")
    blocks = 0
    for call in calls:
        if call.requests is not None:
            _check(call.requests, size, nesting + 1)
            continue
        if call.prompt is None or call.out is None:
            raise BadLine("requests[...]: a request without `in` or `out`")
        if call.keep > blocks:
            raise BadLine("requests[...].keep: more blocks than the request before it has")
        blocks = call.keep + sum(count for _, count in call.add)
        if blocks * size > call.prompt:
            raise BadLine("requests[...].add: more blocks than `in` has tokens for")


def _last_id(calls: list[_Call]) -> int:
    """The highest block id that the requests name."""
    return max(
        (
            _last_id(call.requests)
            if call.requests is not None
            else max((start + count for start, count in call.add), default=0)
            for call in calls
        ),
        default=0,
    )


def _end(call: _Call) -> int:
    """Tokens of prompt and answer."""
    return (call.prompt or 0) + (call.out or 0)
