"""What is wrong with a trace, or with what was asked of a workload."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkloadError(ValueError):
    """One sentence: where (`FILE:LINE:` for a trace), what, and what to do where that is known."""


class BadLine(Exception):
    """A line that cannot be used. `reason` is what equal mistakes are counted by; `detail` tells them apart."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} {detail}".rstrip())
        self.reason = reason


def unknown(what: str, name: str, known: Iterable[str]) -> WorkloadError:
    """`name` is none of `known`: names the nearest, or all of them."""
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        return WorkloadError(f"unknown {what} {name!r}: did you mean {' or '.join(near)}?")
    return WorkloadError(f"unknown {what} {name!r}: there are {', '.join(names) or 'none'}")
