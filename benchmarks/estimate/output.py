"""How well output lengths are predicted. Run: `python -m benchmarks.estimate.output --traces DIR`.

DIR holds AzureLLMInferenceTrace_conv.csv (Azure/AzurePublicDataset), sharegpt_8k_llama2tok.csv (project-etalon/etalon)
and a Mooncake trace, mooncake*.jsonl (kvcache-ai/Mooncake). Each answer is predicted from those before it, then learnt
from; the first 200 are not judged. Beside the predictor stand the mean of all answers before, and a mean that forgets
(1/64 an answer). Traces tell nothing of tenants, so what those are worth is not in here.
"""

from __future__ import annotations

import csv
import json
import timeit
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import click

from llmgate.core.output import OutputPredictor

WARM_UP = 200
PRODUCED = (64, 256, 512)  # tokens that have come when the rest is predicted
FORGETTING = 1 / 64

Pair = tuple[int, int]  # prompt and output tokens


def from_csv(file: Path, prompt: str, output: str) -> Iterator[Pair]:
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            yield int(row[prompt]), int(row[output])


def from_mooncake(file: Path) -> Iterator[Pair]:
    with file.open() as lines:
        for record in map(json.loads, lines):
            yield record["input_length"], record["output_length"]


class Errors:
    """Sums of what one way to predict got wrong."""

    def __init__(self) -> None:
        self.judged = 0
        self.absolute = self.signed = 0.0
        self.rests = dict.fromkeys(PRODUCED, 0.0)

    def note(self, expected: float, length: int) -> None:
        self.judged += 1
        self.absolute += abs(expected - length)
        self.signed += expected - length

    def cells(self, reference: Errors) -> str:
        rests = "".join(f"{self.rests[at] / reference.rests[at]:8.2f}" for at in PRODUCED)
        return f"{self.absolute / self.judged:9.1f}{self.signed / self.judged:8.1f}{rests}"


def judge(pairs: Iterator[Pair]) -> tuple[dict[str, Errors], dict[float, float]]:
    """Errors by predictor, and the share of answers within each quantile."""
    predictor = OutputPredictor()
    found = {"plain mean": Errors(), "forgetting mean": Errors(), "predictor": Errors()}
    within = {0.5: 0, 0.9: 0}
    total = forgetting = 0.0
    for number, (prompt, length) in enumerate(pair for pair in pairs if pair[1] > 0):
        if number >= WARM_UP:
            expected = {
                "plain mean": total / number,
                "forgetting mean": forgetting,
                "predictor": predictor.expect(None, prompt),
            }
            for name, errors in found.items():
                errors.note(expected[name], length)
            for at in (at for at in PRODUCED if length > at):
                for name in ("plain mean", "forgetting mean"):
                    found[name].rests[at] += abs(max(expected[name] - at, 16.0) - (length - at))
                found["predictor"].rests[at] += abs(predictor.remaining(at, None, prompt) - (length - at))
            for share in within:
                within[share] += length <= predictor.quantile(share, None, prompt)
        total += length
        forgetting += (length - forgetting) * max(FORGETTING, 1 / (number + 1))
        predictor.learn(length, prompt)
    judged = found["predictor"].judged
    return found, {share: inside / judged for share, inside in within.items()}


def microseconds(call: Callable[[], object]) -> float:
    """The quickest of a hundred rounds: what the code costs when the machine is not busy elsewhere."""
    return min(timeit.repeat(call, number=640, repeat=100)) / 640 * 1e6


def costs(pairs: list[Pair]) -> dict[str, float]:
    predictor, numbers = OutputPredictor(), count()
    for prompt, length in pairs:
        predictor.learn(length, prompt, "tenant")

    def learn(tenant: str | None) -> None:
        prompt, length = pairs[next(numbers) % len(pairs)]
        predictor.learn(length, prompt, tenant)

    return {
        "expect": microseconds(lambda: predictor.expect(300, 500)),
        "expect, of a tenant": microseconds(lambda: predictor.expect(300, 500, "tenant")),
        "quantile": microseconds(lambda: predictor.quantile(0.9, None, 500)),
        "remaining": microseconds(lambda: predictor.remaining(300, 2000, 500)),
        "learn": microseconds(lambda: learn(None)),
        "learn, of a tenant": microseconds(lambda: learn("tenant")),
    }


@click.command(help=__doc__)
@click.option("--traces", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(traces: Path) -> None:
    readers: dict[str, Iterator[Pair]] = {
        "azure conv": from_csv(traces / "AzureLLMInferenceTrace_conv.csv", "ContextTokens", "GeneratedTokens"),
        "sharegpt": from_csv(traces / "sharegpt_8k_llama2tok.csv", "num_prefill_tokens", "num_decode_tokens"),
        "mooncake": from_mooncake(next(traces.glob("mooncake*.jsonl"))),
    }
    rests = "".join(f"{f'rest@{at}':>8}" for at in PRODUCED)
    click.echo(f"{'':12}{'':17}{'MAE':>9}{'bias':>8}{rests}   (rests: MAE relative to the plain mean's)")
    for trace, pairs in readers.items():
        found, within = judge(pairs)
        for name, errors in found.items():
            click.echo(f"{trace:12}{name:17}{errors.cells(found['plain mean'])}")
        shares = ", ".join(f"p{share * 100:.0f} {100 * inside:.1f} %" for share, inside in within.items())
        click.echo(f"{trace:12}answers within the predicted {shares}")
    sample = from_csv(traces / "AzureLLMInferenceTrace_conv.csv", "ContextTokens", "GeneratedTokens")
    click.echo("\ncost, µs")
    for what, cost in costs(list(islice(sample, 5000))).items():
        click.echo(f"  {what:20}{cost:6.2f}")


if __name__ == "__main__":
    main()
