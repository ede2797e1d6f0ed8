"""Options of readers and generators: their keyword parameters, given as values or as text of the command line."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from llmgate.workloads.errors import WorkloadError

Value = int | float | str | bool | None

_GIVEN_ELSEWHERE = frozenset({"path", "seed", "skip_bad"})
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def check(holds: bool, option: str, rule: str) -> None:
    """Raises WorkloadError naming the option unless the rule holds."""
    if not holds:
        raise WorkloadError(f"option {option}: {rule}")


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Options of a reader or generator → their defaults."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.name not in _GIVEN_ELSEWHERE}


def fitting(function: Callable[..., Any], options: Mapping[str, Value], *, what: str) -> dict[str, Any]:
    """`options` as `function` takes them, text turned into numbers. Raises WorkloadError naming the option and what is
    allowed; `what` is whose options these are."""
    allowed = parameters(function)
    types = get_type_hints(function)
    fitted = {}
    for name, value in options.items():
        if name not in allowed:
            raise WorkloadError(f"{what} has no option {name!r}: {_nearest(name, list(allowed))}")
        unset = value is None and allowed[name] is None
        fitted[name] = None if unset else _converted(name, value, types[name])
    return fitted


def split(text: str) -> tuple[str, dict[str, Value]]:
    """`name:key=value,key=value` → the name and its options, values still text. Raises WorkloadError."""
    name, _, rest = text.partition(":")
    return name.strip(), pairs(rest, text)


def pairs(text: str, whole: str) -> dict[str, Value]:
    """`key=value,key=value` → options, values still text. `whole` is quoted in the WorkloadError."""
    options: dict[str, Value] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (part.strip() for part in pair.partition("="))
        if not (key and sign and value):
            raise WorkloadError(f"{whole!r}: {pair!r} is not key=value; write NAME:key=value,key=value")
        if key in options:
            raise WorkloadError(f"{whole!r}: {key} is given twice")
        options[key] = value
    return options


def _nearest(name: str, allowed: list[str]) -> str:
    if near := difflib.get_close_matches(name, allowed, n=1):
        return f"did you mean {near[0]}?"
    return f"it takes {', '.join(allowed) or 'none'}"


def _converted(name: str, value: Value, hint: Any) -> Value:
    kinds = set(getattr(hint, "__args__", (hint,)))  # `int | None` too
    try:
        if bool in kinds:
            return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
        if kinds & {int, float}:
            number = float(value if value is not None else math.nan)
            if not math.isfinite(number):
                raise ValueError
            if float in kinds:
                return number
            if number != int(number):
                raise ValueError
            return int(number)
        return str(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        wanted = "true or false" if bool in kinds else "a number" if float in kinds else "a whole number"
        raise WorkloadError(f"option {name}: {value!r} is not {wanted}") from None
