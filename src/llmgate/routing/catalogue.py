"""From a name and options to an object: the built-in ones of a kind, and those that packages offer as entry points."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Catalogue(Generic[T]):
    """All that can be named of one kind."""

    kind: str  # as messages call it
    key: str  # under which the configuration names one
    base: type[T]
    built_in: Mapping[str, Callable[..., T]]
    group: str | None = None  # of entry points; None: there are only the built-in ones

    def names(self) -> list[str]:
        """Every name there is; the built-in ones first."""
        offered = set() if self.group is None else {point.name for point in entry_points(group=self.group)}
        return [*self.built_in, *sorted(offered - self.built_in.keys())]

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """A new one. ValueError says what is wrong with the name or the options, and what is allowed."""
        make = self.built_in.get(name) or self._third_party(name)
        given: dict[str, Any] = {}
        allowed = self._parameters(name, make)
        for key, value in (options or {}).items():
            if key not in allowed:
                known = ", ".join(allowed) or "none"
                near = difflib.get_close_matches(key, allowed, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise ValueError(f"options.{key}: the {self.kind} {name!r} has no such option ({hint}it has: {known})")
            try:
                given[key] = _like(allowed[key].default, value)
            except ValueError as error:
                raise ValueError(f"options.{key}: {error}") from None
        try:
            made = make(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: {error}") from error
        except Exception as error:  # whatever a stranger's class raises
            raise ValueError(
                f"options: the {self.kind} {name!r} cannot be made with them: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(made, self.base):
            raise self._no_such_kind(name, made)
        return made

    def _parameters(self, name: str, make: Callable[..., T]) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(make).parameters
        except (TypeError, ValueError):
            raise self._no_such_kind(name, make) from None

    def _third_party(self, name: str) -> Callable[..., T]:
        for point in () if self.group is None else entry_points(group=self.group, name=name):
            try:
                loaded: Callable[..., T] = point.load()
            except Exception as error:  # whatever a stranger's module raises at import
                raise ValueError(f"{self.key}: {name!r} could not be loaded from {point.value}: {error}") from error
            return loaded
        near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        hint += f"there are: {', '.join(self.names())}"
        raise ValueError(f"{self.key}: there is no {self.kind} {name!r}; {hint}")

    def _no_such_kind(self, name: str, found: object) -> ValueError:
        return ValueError(f"{self.key}: {name!r} is not a llmgate {self.base.__name__} but {type(found).__name__}")


def _like(default: object, value: Any) -> Any:
    """`value` if it may stand for `default`. A variable of the environment is text, also where it means a number."""
    if isinstance(default, bool):
        meant = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(meant, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return meant
    if isinstance(default, int | float):
        meant = _number(value) if isinstance(value, str) else value
        if isinstance(meant, bool) or not isinstance(meant, int | float):
            raise ValueError(f"must be a number, not {value!r}")
        return meant
    return value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
