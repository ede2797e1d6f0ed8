"""What befalls a fleet on a schedule: `120s kill h100-3`."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llmgate.engines.spec import parse_specs
from llmgate.sim.units import seconds

SPOT_NOTICE = 120.0
"""Seconds between the notice and the end of a spot instance: AWS EC2's two minutes (GCP and Azure give 30 s)."""


class Action(enum.StrEnum):
    KILL = "kill"  # the process dies and does not come back
    RESTART = "restart"  # it dies, and serves again after its profile's startup_s, with a cold cache
    RECLAIM = "reclaim"  # a spot instance: drained at the notice, gone when that is over
    JOIN = "join"  # engines by their specification, serving after startup_s
    SLOW = "slow"  # every step takes so many times as long: x1 ends it


@dataclass(frozen=True, slots=True)
class Incident:
    at: float  # seconds
    action: Action
    target: str  # an engine's name; for JOIN a specification
    amount: float = 0.0  # of RECLAIM: seconds of notice; of SLOW: the factor


def parse_incident(text: str) -> Incident:
    """From `TIME kill|restart|join NAME`, `TIME reclaim NAME [NOTICE]` or `TIME slow NAME xFACTOR`. ValueError."""
    words = text.split()
    if len(words) < 3:
        raise ValueError(f"{text!r}: write TIME ACTION NAME, as in `120s kill h100-3`")
    at = seconds(words[0])
    try:
        action = Action(words[1])
    except ValueError:
        near = difflib.get_close_matches(words[1], list(Action), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(Action)}"
        raise ValueError(f"{text!r}: there is no action {words[1]!r}; {hint}") from None
    return Incident(at, action, words[2], _amount(text, action, words[3:]))


def _amount(text: str, action: Action, rest: Sequence[str]) -> float:
    if action is Action.SLOW:
        factor = _factor(rest[0]) if len(rest) == 1 else None
        if factor is None:
            raise ValueError(f"{text!r}: say how slow, as in `60s slow h100-3 x2`")
        return factor
    if action is Action.RECLAIM and len(rest) <= 1:
        return seconds(rest[0]) if rest else SPOT_NOTICE
    if rest:
        raise ValueError(f"{text!r}: nothing may follow the name after {action}")
    return 0.0


def _factor(text: str) -> float | None:
    try:
        factor = float(text.removeprefix("x"))
    except ValueError:
        return None
    return factor if text.startswith("x") and 0.01 <= factor <= 1000.0 else None


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or with the next number at its end if there is, or was, such an engine."""
    stem = name.rpartition("-")[0] or name
    return next(each for each in (name, *(f"{stem}-{n}" for n in range(len(taken) + 1))) if each not in taken)


def check_targets(incidents: Sequence[Incident], fleet: Sequence[str]) -> None:
    """ValueError, with the nearest names, if one is about an engine that there never is. `fleet`: names of those that
    there are at first; those that join are given theirs as they come (`free_name`)."""
    names = list(fleet)
    for incident in sorted(incidents, key=lambda each: each.at):
        if incident.action is Action.JOIN:
            for spec in parse_specs(incident.target):
                names.append(free_name(spec.name, names))
    for incident in incidents:
        if incident.action is not Action.JOIN and incident.target not in names:
            near = difflib.get_close_matches(incident.target, names, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
            raise ValueError(f"{incident.action}: there is no engine {incident.target!r}; {hint}")
