"""Synthetic workloads by name."""

from __future__ import annotations

from collections.abc import Callable

from llmgate.workloads import generators
from llmgate.workloads.errors import unknown
from llmgate.workloads.options import Value, fitting, parameters, split
from llmgate.workloads.types import TraceRequest, Workload

_GENERATORS: dict[str, Callable[..., list[TraceRequest]]] = {
    "gamma": generators.gamma,
    "long-context": generators.long_context,
    "multi-turn": generators.multi_turn,
    "poisson": generators.poisson,
    "shared-prompts": generators.shared_prompts,
    "skewed-tenants": generators.skewed_tenants,
    "uniform": generators.uniform,
}


def names() -> list[str]:
    """Of the synthetic workloads."""
    return sorted(_GENERATORS)


def options(name: str) -> dict[str, Value]:
    """What the workload takes, and the defaults. Raises WorkloadError on an unknown name."""
    return parameters(_generator(name))


def about(name: str) -> str:
    """What the workload is, in one sentence. Raises WorkloadError on an unknown name."""
    return (_generator(name).__doc__ or "").partition("\n")[0]


def parse(text: str) -> tuple[str, dict[str, Value]]:
    """`multi-turn:turns=8,rate=2` → the name and its options, checked and as numbers, for `synthetic(name, **options)`.

    Raises WorkloadError that names the option and what is allowed.
    """
    name, given = split(text)
    return name, fitting(_generator(name), given, what=f"workload {name}")


def synthetic(name: str, *, seed: int = 0, **options: Value) -> Workload:
    """The workload of that name. Equal arguments give equal workloads, on every machine.

    Raises WorkloadError on an unknown name (the nearest are named) or option, or a value out of range.
    """
    generator = _generator(name)
    return Workload(name, generator(seed=seed, **fitting(generator, options, what=f"workload {name}")))


def _generator(name: str) -> Callable[..., list[TraceRequest]]:
    if (generator := _GENERATORS.get(name)) is None:
        raise unknown("workload", name, _GENERATORS)
    return generator
