"""Policies on workloads: the simulator's front door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmgate.core.protocols import Router
from llmgate.engines.spec import EngineSpec
from llmgate.sim.incidents import Incident
from llmgate.sim.policies import make_router
from llmgate.sim.settings import Settings
from llmgate.sim.simulation import Judge, Outcome, Simulation
from llmgate.sim.slo import Slo
from llmgate.sim.summary import Summary
from llmgate.workloads.edits import keeping
from llmgate.workloads.types import Workload


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """One policy on one workload with one seed."""

    policy: str  # as it was named
    seed: int
    summary: Summary
    outcome: Outcome


def simulate(
    workload: Workload,
    fleet: Sequence[EngineSpec],
    policy: str | Callable[[], Router],
    *,
    name: str | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    slo: Slo = Slo(),  # noqa: B008  (frozen)
    incidents: Sequence[Incident] = (),
    judge: Judge | None = None,
    progress: Callable[[int], None] | None = None,
) -> PolicyRun:
    """Run `policy` (what `--policy` takes, or a factory of routers) and sum up. Equal arguments give equal results, bit
    for bit. `progress` is told of each request that has ended.

    ValueError: no engine, a model that no engine serves, or what make_router says.
    """
    check_models(workload, fleet)
    router = make_router(policy) if isinstance(policy, str) else policy()
    simulation = Simulation(
        workload,
        fleet,
        router,
        settings,
        incidents=incidents,
        judge=judge,
        progress=progress,
    )
    outcome = simulation.run()
    label = name or (policy if isinstance(policy, str) else type(router).__name__)
    return PolicyRun(label, settings.seed, Summary.of(outcome, slo.bounds(workload, fleet)), outcome)


def check_models(workload: Workload, fleet: Sequence[EngineSpec]) -> None:
    """ValueError if there is no engine, or a request is for a model that none of them serves."""
    if not fleet:
        raise ValueError("there is no engine: name at least one")
    served = list(dict.fromkeys(spec.profile.model for spec in fleet))
    wanted = {request.model for request in workload.requests}
    if None in wanted and len(served) > 1:
        raise ValueError(
            f"the workload's requests name no model, and the engines serve {len(served)}: {', '.join(served)}; "
            "give engines of one model"
        )
    for model in sorted(each for each in wanted if each is not None and each not in served):
        raise ValueError(f"the workload has requests for {model!r}, and the engines serve {', '.join(served)} only")


def fitted(workload: Workload, fleet: Sequence[EngineSpec]) -> Workload:
    """Without the requests that are longer than the context of every engine of their model: no policy can serve them.
    They are counted in `dropped`, and what waited on one waits on what that waited on."""
    default = fleet[0].profile.model
    longest: dict[str, int] = {}
    for spec in fleet:
        profile = spec.profile
        room = min(profile.max_model_len, profile.kv_tokens)
        longest[profile.model] = max(longest.get(profile.model, 0), room)
    kept = keeping(
        workload.requests,
        lambda each: each.prompt_tokens + each.output_tokens <= longest[each.model or default],
    )
    left_out = len(workload.requests) - len(kept)
    if not left_out:
        return workload
    reason = f"longer than the context of {max(longest.values()):,} tokens"
    return replace(workload, requests=kept, dropped={**workload.dropped, reason: left_out})
