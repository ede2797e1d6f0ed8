from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmgate.cli.output import STDOUT, to_file

if TYPE_CHECKING:
    from llmgate.sim.study import Study


class ManyValued(click.Command):
    """`--policy A B` as `--policy A --policy B`, and `--at 60s slow h100-3 x2` with no quotes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        folded: list[str] = []
        index = 0
        while index < len(args):
            word, equals, first = args[index].partition("=")
            if word not in ("--policy", "--at"):
                folded.append(args[index])
                index += 1
                continue
            index += 1
            values = [first] if equals else []
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
@click.option("--kv-events", is_flag=True, help="Engines tell what they cache; prompts are counted exactly.")
@click.option("--skip-bad", is_flag=True, help="Leave lines out that cannot be used, and count them.")
@click.option("--json", "json_file", metavar="FILE", help="Write JSON there (- is stdout).")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="An HTML page.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def simulate(**given: Any) -> None:
    """Policies side by side on a workload, in virtual time: what each would have made of it."""
    if (given["trace"] is None) == (given["workload"] is None):
        raise click.UsageError("give either --trace FILE or --workload NAME")
    if "" not in sys.path:
        sys.path.append("")  # policies of the user's own, as package.module:Class from here
    study = _run(given)
    if given["json_file"] != STDOUT:
        from llmgate.cli.study_table import show

        show(study)
    if given["json_file"] is not None:
        with _one_sentence():
            to_file(given["json_file"], json.dumps(study.as_json(), indent=2, allow_nan=False).encode() + b"\n")
    if given["report"] is not None:
        _report(study, given["report"])


def _run(given: dict[str, Any]) -> Study:
    from llmgate.cli.simulate_plan import Plan
    from llmgate.sim.study import run_study

    with _one_sentence():
        plan = Plan(given)
        with _progress(plan.total, quiet=given["quiet"]) as (begin, progress):
            run = partial(plan.run, begin, progress)
            capacity = partial(plan.capacity, begin) if given["find_capacity"] else None
            return plan.study(run_study(plan.policies, plan.seeds, run, capacity))


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


def _report(study: Study, directory: Path) -> None:
    from llmgate.reports import ReportError
    from llmgate.sim.report import write_report

    try:
        page = write_report(study, directory)
    except ReportError as error:
        click.echo(f"llmgate: {error}", err=True)
        sys.exit(1)
    click.echo(f"The report is {page}", err=True)
