"""How good and how dear the token estimates are. Run: `python -m benchmarks.estimate.run`.

Prints the relative error of the prompt estimate per kind of prompt (median / 90th percentile, percent) with the prior
alone and after 50 and 200 answers of the same kind, then the cost of each step. The truth is `--tokenizer`.
"""

from __future__ import annotations

import random
import statistics
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.estimate.corpus import FIXTURES, Sample, build
from llmgate.core.estimate import ByteClasses, PromptEstimator, byte_classes
from llmgate.tokens import load_tokenizer

STAGES = (0, 50, 200)  # answers learnt from

Counted = tuple[ByteClasses, int]


def errors(samples: Sequence[Sample], seed: int = 0) -> dict[int, list[float]]:
    """Relative errors on prompts that were not learnt from, by the number of answers learnt from before."""
    counted: list[Counted] = [(byte_classes(sample.raw), sample.tokens) for sample in samples]
    random.Random(seed).shuffle(counted)
    learnt, unseen = counted[: max(STAGES)], counted[max(STAGES) :]
    model = PromptEstimator()
    found = {}
    for answers in range(max(STAGES) + 1):
        if answers in STAGES:
            found[answers] = [abs(model.estimate(classes) - tokens) / tokens for classes, tokens in unseen]
        if answers < len(learnt):
            model.learn(*learnt[answers])
    return found


def percentile(values: Sequence[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def microseconds(call: Callable[[], object], number: int = 3000) -> float:
    """The quickest of five rounds: what the code costs when the machine is not busy elsewhere."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def fit(samples: Sequence[Sample]) -> list[float]:
    """The prior: least squares on the relative error; a negative coefficient of text is taken out and fitted again."""
    import numpy as np

    rows = [byte_classes(sample.raw) for sample in samples]
    table = np.array([[*row[1:10], float(row.messages > 0)] for row in rows]) / [[sample.tokens] for sample in samples]
    active = list(range(table.shape[1]))
    while True:
        solution = np.linalg.lstsq(table[:, active], np.ones(len(table)), rcond=None)[0]
        negative = {column for column, value in zip(active, solution, strict=True) if value < 0 and column < 8}
        if not negative:
            found = dict(zip(active, solution, strict=True))
            return [round(float(found.get(column, 0.0)), 3) for column in range(table.shape[1])]
        active = [column for column in active if column not in negative]


@click.command(help=__doc__)
@click.option(
    "--prompts", type=click.Path(exists=True, path_type=Path), default=FIXTURES, help="Folder with data sets."
)
@click.option("--tokenizer", default="embedded", show_default=True, help="Directory, tokenizer.json or 'embedded'.")
@click.option("--count", default=500, show_default=True, help="Prompts of each kind; the first 200 are learnt from.")
@click.option("--fit", "print_fit", is_flag=True, help="Print the prior fitted to these prompts.")
def main(prompts: Path, tokenizer: str, count: int, print_fit: bool) -> None:
    kinds = build(load_tokenizer(tokenizer), prompts, count)
    click.echo(f"{'kind':10}{'bytes p50':>10}" + "".join(f"{f'after {stage}':>16}" for stage in STAGES))
    for kind, samples in kinds.items():
        cells = [
            f"{100 * statistics.median(found):6.1f} / {100 * percentile(found, 0.9):5.1f}"
            for found in errors(samples).values()
        ]
        size = statistics.median(len(sample.raw) for sample in samples)
        click.echo(f"{kind:10}{size:10.0f}" + "".join(f"{cell:>16}" for cell in cells))

    text = b" ".join(sample.raw for sample in kinds["miniswe"])
    click.echo("\ncost, µs")
    for size in (1024, 32 * 1024, 128 * 1024):
        piece = text[:size]
        click.echo(f"  byte_classes, {size // 1024:3} KB {microseconds(partial(byte_classes, piece)):8.1f}")
    model, sample = PromptEstimator(), kinds["mix"][0]
    classes = byte_classes(sample.raw)
    click.echo(f"  estimate             {microseconds(lambda: model.estimate(classes)):8.1f}")
    click.echo(f"  learn                {microseconds(lambda: model.learn(classes, sample.tokens)):8.1f}")
    if print_fit:
        click.echo(f"\nprior fitted to the mix: {fit(kinds['mix'])}")


if __name__ == "__main__":
    main()
