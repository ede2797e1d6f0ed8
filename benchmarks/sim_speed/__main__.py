"""What a simulated policy costs: `python -m benchmarks.sim_speed`, CPU seconds and memory by the number of requests.

The trace is repeated with fresh blocks, one copy after another, so that twice the requests are twice the time at the
same load. Each row is a process of its own: its CPU time is that of the run alone, without reading the trace; its
memory is all that the process ever held.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import click

from llmgate.engines.spec import parse_specs
from llmgate.sim.run import simulate
from llmgate.workloads import load_text, repeat, scaled

TRACE = Path(__file__).parents[1] / "data" / "mooncake_conversation_first_half.jsonl.gz"
POLICIES = ("round-robin", "expected-latency", "prefix-affinity", "oracle")


def measure(trace: str, engines: str, policy: str, times: int, rate_scale: float) -> dict[str, float]:
    """In this process: requests, CPU seconds, MB at the most."""
    workload = scaled(repeat(load_text(trace), times), rate_scale)
    fleet = parse_specs(engines)
    begun = time.process_time()
    done = simulate(workload, fleet, policy)
    return {
        "requests": done.summary.requests,
        "cpu_s": time.process_time() - begun,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "goodput": done.summary.goodput_ratio,
    }


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY …]")
@click.option("--trace", default=str(TRACE), help="Any that `llmgate simulate --trace` takes.")
@click.option("--engines", default="8x4h100:llama-3.1-70b")
@click.option("--rate-scale", type=float, default=1.0)
@click.option(
    "--times", "multiples", type=click.IntRange(1), multiple=True, default=(1, 2, 4), help="Copies; repeatable."
)
@click.option("--one", is_flag=True, hidden=True, help="Measure here and print JSON.")
def main(
    policies: tuple[str, ...], trace: str, engines: str, rate_scale: float, multiples: tuple[int, ...], one: bool
) -> None:
    """Time the named policies; a few of all kinds by default."""
    if one:
        click.echo(json.dumps(measure(trace, engines, policies[0], multiples[0], rate_scale)))
        return
    click.echo("| policy | requests | CPU s | ms a request | peak MB | goodput |\n|---|---|---|---|---|---|")
    for policy in policies or POLICIES:
        for times in multiples:
            arguments = ["--one", "--trace", trace, "--engines", engines, "--times", str(times), policy]
            arguments += ["--rate-scale", str(rate_scale)]
            command = [sys.executable, "-m", "benchmarks.sim_speed", *arguments]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            click.echo(
                f"| {policy} | {row['requests']:,} | {row['cpu_s']:.2f} | {1000 * row['cpu_s'] / row['requests']:.3f} "
                f"| {row['peak_mb']:.0f} | {100 * row['goodput']:.1f} % |"
            )


if __name__ == "__main__":
    main()
