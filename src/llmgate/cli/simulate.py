from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmgate.engines.spec import EngineSpec
    from llmgate.sim.paired import Difference
    from llmgate.sim.study import Study
    from llmgate.workloads import Workload

PARTS = ("mean", "p50", "p90", "p95", "p99")
LATENCIES = (("ttft", "TTFT, s", 1.0), ("tpot", "TPOT, ms", 1000.0), ("e2e", "E2E, s", 1.0))
REST = {
    "prefix_hit_ratio": "cache hits",
    "tokens_per_s": "tokens/s",
    "goodput_ratio": "goodput",
    "imbalance": "imbalance",
    "preemptions": "preempted",
    "failed": "failed",
}
SHOWN_DIFFERENCES = ("ttft.mean", "ttft.p99", "tpot.mean", "e2e.mean", "prefix_hit_ratio", "goodput_ratio")


class ManyValued(click.Command):
    """`--policy A B` as `--policy A --policy B`, and `--at 60s slow h100-3 x2` with no quotes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        folded: list[str] = []
        index = 0
        while index < len(args):
            word = args[index]
            index += 1
            if word not in ("--policy", "--at"):
                folded.append(word)
                continue
            values = []
            while index < len(args) and not args[index].startswith("-"):
                values.append(args[index])
                index += 1
            if word == "--at":
                values = [" ".join(values)] if values else []
            folded += [part for value in values for part in (word, value)] or [word]
        return super().parse_args(ctx, folded)


@click.command(
    cls=ManyValued,
    epilog="""\b
Examples:
  llmgate simulate --trace mooncake.jsonl --engines 8x4h100:llama-3.1-70b --policy round-robin prefix-affinity oracle
  llmgate simulate --workload multi-turn:turns=8,rate=2 --engines 4xh100:llama-3.1-8b,6xa100:llama-3.1-8b \\
      --policy least-connections expected-latency --seeds 5 --slo ttft=1s,tpot=50ms --json -
  llmgate simulate --workload poisson --engines 4xh100:llama-3.1-8b --policy token-aware \\
      --at 20s kill h100-3 --at 30s join 1xh100:llama-3.1-8b""",
)
@click.option("--trace", metavar="FILE", help="A recorded trace; reader options as FILE:key=value,key=value.")
@click.option("--workload", metavar="NAME", help="A synthetic workload; options as NAME:key=value,key=value.")
@click.option("--engines", required=True, metavar="SPEC", help="COUNTx[GPUS]GPU:MODEL, comma-separated.")
@click.option(
    "--policy",
    "policies",
    required=True,
    multiple=True,
    metavar="NAME …",
    help="A policy, `oracle`, package.module:Class, or `all`; options as NAME:key=value,key=value. Others are compared "
    "to the first.",
)
@click.option(
    "--rate-scale", type=float, default=1.0, show_default=True, help="So many times the workload's rate of arrivals."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Run so many, from --seed on."
)
@click.option(
    "--slo",
    default="relative",
    show_default=True,
    metavar="SLO",
    help="`ttft=2s,tpot=50ms`, or relative: TTFT within max(2 s, 2 × the request's own idle prefill).",
)
@click.option("--find-capacity", is_flag=True, help="Also the highest rate at which 90 % of requests meet the SLO.")
@click.option(
    "--at",
    "incidents",
    multiple=True,
    metavar="TIME ACTION NAME",
    help="kill NAME, restart NAME, reclaim NAME [NOTICE], join SPEC, slow NAME xFACTOR.",
)
@click.option(
    "--estimate-error",
    type=float,
    default=0.05,
    show_default=True,
    help="Of prompt tokens, standard deviation of the log.",
)
@click.option("--scrape-period", type=float, default=1.0, show_default=True, help="Seconds.")
@click.option("--skip-bad", is_flag=True, help="Leave lines out that cannot be used, and count them.")
@click.option("--json", "json_file", type=click.File("w"), metavar="FILE", help="Write JSON there (- is stdout).")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="An HTML page.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def simulate(**given: Any) -> None:
    """Policies side by side on a workload, in virtual time: what each would have made of it."""
    if (given["trace"] is None) == (given["workload"] is None):
        raise click.UsageError("give either --trace FILE or --workload NAME")
    sys.path.append("")  # policies of the user's own, as package.module:Class from here
    study = _run(given)
    if given["json_file"] is not None:
        json.dump(study.as_json(), given["json_file"], indent=2, allow_nan=False)
        given["json_file"].write("\n")
    if given["json_file"] is None or given["json_file"] is not sys.stdout:
        _show(study)
    if given["report"] is not None:
        _report(study, given["report"])


def _run(given: dict[str, Any]) -> Study:
    from llmgate.engines.spec import parse_specs
    from llmgate.sim.capacity import Capacity, find_capacity
    from llmgate.sim.incidents import check_targets, parse_incident
    from llmgate.sim.policies import EVERY, every_name, make_router
    from llmgate.sim.run import PolicyRun
    from llmgate.sim.run import simulate as run_one
    from llmgate.sim.settings import Settings
    from llmgate.sim.slo import parse_slo
    from llmgate.sim.study import Study, run_study

    with _one_sentence():
        fleet = parse_specs(given["engines"])
        policies = list(
            dict.fromkeys(each for name in given["policies"] for each in (every_name() if name == EVERY else [name]))
        )
        for policy in policies:
            make_router(policy)  # before any of them runs
        slo = parse_slo(given["slo"])
        if not 0.001 <= given["rate_scale"] <= 1000.0:
            raise ValueError(f"--rate-scale must be from 0.001 to 1000, not {given['rate_scale']:g}")
        incidents = [parse_incident(text) for text in given["incidents"]]
        check_targets(incidents, [spec.name for spec in fleet])
        seeds = range(given["seed"], given["seed"] + given["seeds"])
        workload = _load(given, seeds[0], fleet)
        of_seed = {seeds[0]: workload}

        def at(seed: int) -> Workload:
            if seed not in of_seed:
                of_seed.clear()
                of_seed[seed] = _load(given, seed, fleet)
            return of_seed[seed]

        def settings(seed: int) -> Settings:
            return Settings(
                seed, given["estimate_error"], given["scrape_period"], min(0.02, given["scrape_period"] / 2)
            )

        settings(0)
        total = len(workload.requests) * len(policies) * len(seeds)
        with _progress(total, quiet=given["quiet"]) as (begin, progress):

            def run(policy: str, seed: int) -> PolicyRun:
                begin(f"{policy}, seed {seed}" if len(seeds) > 1 else policy)
                return run_one(
                    at(seed),
                    fleet,
                    policy,
                    settings=settings(seed),
                    slo=slo,
                    incidents=incidents,
                    progress=progress,
                )

            def capacity(policy: str, seed: int) -> Capacity:
                begin(f"capacity of {policy}")
                return find_capacity(
                    at(seed),
                    fleet,
                    policy,
                    settings=settings(seed),
                    slo=slo,
                    incidents=incidents,
                    tried=lambda scale, met: begin(f"capacity of {policy}: × {scale:.3g} {'✓' if met else '✗'}"),
                )

            results = run_study(policies, seeds, run, capacity if given["find_capacity"] else None)
    return Study(
        workload=given["trace"] or given["workload"],
        fleet=tuple(fleet),
        engines=given["engines"],
        slo=slo,
        rate_scale=given["rate_scale"],
        seeds=tuple(seeds),
        dropped=dict(workload.dropped),
        incidents=tuple(given["incidents"]),
        policies=results,
    )


def _load(given: dict[str, Any], seed: int, fleet: Sequence[EngineSpec]) -> Workload:
    from llmgate.sim.run import check_models, fitted
    from llmgate.workloads import load_text, parse, scaled, synthetic

    if given["trace"] is not None:
        workload = load_text(given["trace"], seed=seed, skip_bad=given["skip_bad"])
    else:
        name, options = parse(given["workload"])
        workload = synthetic(name, **{"seed": seed, **options})
    check_models(workload, fleet)
    workload = fitted(workload, fleet)
    if not workload.requests:
        why = "; ".join(f"{count} were left out: {reason}" for reason, count in workload.dropped.items())
        raise ValueError(f"the workload has no request that can be simulated{f' ({why})' if why else ''}")
    return workload if given["rate_scale"] == 1.0 else scaled(workload, given["rate_scale"])


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Mistakes of the user's to stderr, and exit 1."""
    from llmgate.workloads import WorkloadError

    try:
        yield
    except (ValueError, OSError, WorkloadError) as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Any]:
    """(a function that says what is being done, one that is told of requests done)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        pending = 0

        def progress(done: int) -> None:
            nonlocal pending
            pending += done
            if pending >= 200:
                bar.advance(task, pending)
                pending = 0

        yield lambda what: bar.update(task, description=what), progress


def _show(study: Study) -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    console.print(_title(study))
    for group, heading, factor in LATENCIES:
        rows = [
            (result.policy, *(_number(factor * result.mean(f"{group}.{part}")) for part in PARTS))
            for result in study.policies
        ]
        console.print(_table((heading, *PARTS), rows))
    rest = [(result.policy, *(_cell(name, result.mean(name)) for name in REST)) for result in study.policies]
    console.print(_table(("", *REST.values()), rest))
    if study.policies[0].capacities:
        for result in study.policies:
            rate = sum(each.requests_per_s for each in result.capacities) / len(result.capacities)
            console.print(
                f"{result.policy}: {study.slo} holds for 90 % up to × {result.mean('capacity'):.3g} "
                f"({rate:.3g} requests/s)"
            )
    if len(study.seeds) > 1:
        console.print(_differences(study))
    for reason, count in study.dropped.items():
        console.print(f"left out of the workload: {count} ({reason})")
    for result in study.policies:
        failures: dict[str, int] = {}
        for run in result.runs:
            for reason, count in run.outcome.failures.items():
                failures[reason] = failures.get(reason, 0) + count
        for reason, count in failures.items():
            console.print(f"failed with {result.policy}: {count} ({reason})")


def _differences(study: Study) -> Any:
    first = study.policies[0].policy
    rows = [
        (name if at == 0 else "", result.policy, _cell(name, found.mean), _interval(name, found))
        for name in SHOWN_DIFFERENCES
        for at, result in enumerate(study.policies[1:])
        for found in (study.difference(result, name),)
    ]
    heading = f"over {len(study.seeds)} seeds"
    return _table((heading, f"less {first}", "difference", "95 % interval (* leaves out 0)"), rows)


def _interval(name: str, found: Difference) -> str:
    return f"{_cell(name, found.low)} to {_cell(name, found.high)}{' *' if found.clear else '  '}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    columns = [
        Column(text, justify="left" if at == 0 else "right", overflow="fold") for at, text in enumerate(headings)
    ]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _title(study: Study) -> str:
    requests = study.policies[0].runs[0].summary.requests
    seeds = f"seed {study.seeds[0]}" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    return f"{study.workload} × {study.rate_scale:g}, {requests} requests on {study.engines}, SLO {study.slo}, {seeds}"


def _cell(name: str, value: float) -> str:
    if name.startswith("tpot"):
        return f"{_number(1000 * value)} ms"
    if name.startswith(("ttft", "e2e")):
        return f"{_number(value)} s"
    if name.endswith("ratio"):
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if name == "imbalance" else f"{value:,.0f}"


def _number(value: float) -> str:
    """Three figures, and no more decimals than three."""
    if value != value:
        return "–"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _report(study: Study, directory: Path) -> None:
    from llmgate.reports import ReportError
    from llmgate.sim.report import write_report

    try:
        page = write_report(study, directory)
    except ReportError as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)
    click.echo(f"The report is {page}", err=True)
