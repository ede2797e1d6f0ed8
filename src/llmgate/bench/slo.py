"""What counts as a good answer: bounds on latencies, as given by `--slo ttft=2,tpot=50ms`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3}
_BOUND = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|ms|)")


@dataclass(frozen=True, slots=True)
class Slo:
    """Upper bounds in seconds; None: no bound."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def met(self, ttft: float | None, tpot: float | None, e2e: float) -> bool:
        """Whether a whole answer kept every bound. What an answer does not have (the TPOT of one token, the TTFT of
        one that is not streamed) keeps no bound and breaks none."""
        pairs = ((self.ttft, ttft), (self.tpot, tpot), (self.e2e, e2e))
        return all(bound is None or value is None or value <= bound for bound, value in pairs)

    def bounds(self) -> dict[str, float]:
        return {name: bound for name, bound in asdict(self).items() if bound is not None}


def parse_slo(text: str) -> Slo:
    """From `ttft=2,tpot=50ms,e2e=30s`. Raises ValueError that says what is wrong."""
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in Slo.__dataclass_fields__:
            raise ValueError(
                f"{name or part!r} is not a bound: give some of ttft=, tpot= and e2e=, as in ttft=2,tpot=50ms"
            )
        if name in bounds:
            raise ValueError(f"{name} is given twice")
        found = _BOUND.fullmatch(value)
        if not equals or found is None or not float(found[1]):
            raise ValueError(f"{name} needs a time above zero, as in {name}=2, {name}=2s or {name}=50ms, not {value!r}")
        bounds[name] = float(found[1]) * _SECONDS[found[2]]
    return Slo(**bounds)
