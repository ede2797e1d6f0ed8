"""The roofline against splitwise's measurements: `python -m benchmarks.sim_validation.splitwise perf_model.csv`.

The table is data/perf_model.csv of github.com/Mutinifni/splitwise-sim (MIT License): prefill and decode times of
llama2-70b and bloom-176b on A100s and H100s, by an engine of 2023 whose decode steps hardly get faster with more GPUs.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

import click

from llmgate.engines import roofline

MODELS = {"llama2-70b": "llama-2-70b", "bloom-176b": "bloom-176b"}
SHAPES = ((512, 1), (2048, 1), (512, 8), (512, 32))
"""(prompt tokens, batch)"""


@click.command(help=__doc__)
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(table: Path) -> None:
    measured: dict[tuple[str, str, int, int, int], list[tuple[float, float]]] = defaultdict(list)
    with table.open() as file:
        for row in csv.DictReader(file):
            key = (row["model"], row["hardware"], int(row["tensor_parallel"]))
            shape = (int(row["prompt_size"]), int(row["batch_size"]))
            measured[*key, *shape].append((float(row["prompt_time"]) / 1e3, float(row["token_time"]) / 1e3))
    click.echo("| engine | prompt x batch | prefill ms, predicted / measured | decode step ms, predicted / measured |")
    click.echo("|---|---|---|---|")
    for (model, hardware, gpus, prompt, batch), times in sorted(measured.items()):
        if (prompt, batch) not in SHAPES or hardware.endswith("pcap"):
            continue
        profile = roofline.profile("h100" if hardware.startswith("h100") else "a100", MODELS[model], gpus)
        prefill = profile.step_s + profile.prefill_token_s * prompt * batch
        prefill += profile.prefill_pair_s * batch * prompt * (prompt - 1) / 2
        decode = profile.step_s + profile.sequence_s * batch + profile.kv_token_s * batch * prompt
        cells = [
            f"{mine * 1e3:.0f} / {theirs * 1e3:.0f} = {mine / theirs:.2f}"
            for mine, theirs in zip((prefill, decode), map(statistics.median, zip(*times, strict=True)), strict=True)
        ]
        click.echo(f"| {profile.name} | {prompt} x {batch} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
