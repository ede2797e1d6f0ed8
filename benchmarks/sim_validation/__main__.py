"""The engine model against measured engines: `python -m benchmarks.sim_validation [--json FILE] [--plots DIR]`.

The constants are fitted to the first half of the requests, the errors are those of the second half. Without --vllm the
measurements are those in data/ (an RTX PRO 6000); with it they are taken now, from a real vLLM on this CPU
(scripts/vllm; LLMGATE_VLLM_HOME says where it is).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.sim_validation.fit import CONSTANTS, fit
from benchmarks.sim_validation.measurement import Timings, Workload, load
from benchmarks.sim_validation.replay import replay
from benchmarks.sim_validation.score import STATISTICS, score
from llmgate.engines import roofline
from llmgate.engines.profile import EngineProfile

DATA = Path(__file__).parent / "data"

RUNS = {
    # Both: prompts above 2,048 tokens took two steps. The caps are the most that timeseries.csv shows.
    "llama-3.1-8b": {"max_batch_tokens": 2048, "max_running": 128},
    # 336,000 tokens were held at once without anybody waiting for memory; how many there was room for is not known.
    "qwen3-30b-a3b": {"max_batch_tokens": 2048, "max_running": 256, "kv_tokens": 360_000},
}


@dataclass(frozen=True)
class Run:
    name: str
    profile: EngineProfile  # before the fit
    workload: Workload
    measured: Timings


def recorded(data: Path) -> list[Run]:
    runs = []
    for model, known in RUNS.items():
        profile = replace(roofline.profile("rtx-pro-6000", model), **known)  # type: ignore[arg-type]
        runs.append(Run(profile.name, profile, *load(data / model)))
    return runs


def validate(run: Run, plots: Path | None) -> dict[str, Any]:
    half = len(run.workload.requests) // 2
    fitted = fit(run.profile, run.workload, run.measured, half)
    results = {}
    for kind, profile in (("before the fit", run.profile), ("fitted", fitted)):
        model = replay(profile, run.workload, run.measured.seconds)
        results[kind] = score(model, run.measured, slice(half, None))
        results[kind]["constants"] = {name: getattr(profile, name) for name in CONSTANTS}
    if plots is not None:
        from benchmarks.sim_validation.plots import draw

        plots.mkdir(parents=True, exist_ok=True)
        file = plots / f"{run.name.replace(':', '-')}.png"
        draw(f"{run.name}: the last {half} requests", model, run.measured, slice(half, None), file)
    return results


def show(name: str, kind: str, result: dict[str, Any]) -> None:
    click.echo(f"\n{name}, {kind}: " + ", ".join(f"{key} {value:.4g}" for key, value in result["constants"].items()))
    for metric in ("ttft", "tpot", "e2e"):
        row = result[metric]
        cells = [f"{s} {row[s]['model']:.4g} / {row[s]['measured']:.4g} s ({row[s]['error']:+.1%})" for s in STATISTICS]
        click.echo(f"  {metric}: {'   '.join(cells)}   by request {row['mean_error_by_request']:.1%}")
    for gauge in ("running", "waiting"):
        if gauge in result:
            row = result[gauge]
            click.echo(f"  {gauge}: off by {row['difference']:.1f} of {row['measured']:.1f} on average")


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), default=DATA, show_default=True)
@click.option("--vllm", is_flag=True, help="Measure a real vLLM on this CPU instead.")
@click.option("--requests", default=60, show_default=True, help="With --vllm.")
@click.option("--rate", default=1.0, show_default=True, help="With --vllm: requests/s, as a Poisson process.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Write PNG files there.")
@click.option("--json", "json_file", type=click.File("w"), help="Write results there (- is stdout).")
def main(data: Path, vllm: bool, requests: int, rate: float, plots: Path | None, json_file: Any) -> None:
    if vllm:
        from benchmarks.sim_validation.live import measure

        runs = [Run(*measure(requests, rate))]
    else:
        runs = recorded(data)
    results = {run.name: validate(run, plots) for run in runs}
    if json_file is not None:
        json.dump(results, json_file, indent=2)
        return
    click.echo("model / measured (error), of the second half of the requests")
    for name, kinds in results.items():
        for kind, result in kinds.items():
            show(name, kind, result)


if __name__ == "__main__":
    main()
