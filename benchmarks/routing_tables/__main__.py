"""All policies, peers' rules (benchmarks/peers) and the oracle, side by side in virtual time:

    python -m benchmarks.routing_tables [--scene NAME …] [--load 0.8 …] [--capacity ROW …] [--seeds 5] [--jobs 2]
        [--docs PAGE]

Three scenes (scenes.py) at 60, 80 and 95 % of the rate at which least-connections still meets the relative objective
for 90 % of the requests (first token within 2 s, or within twice what the prompt alone takes). Each run is kept below
`--home` by its parameters and a fingerprint of the code, so that an interrupted command goes on where it stopped.

Prints Markdown; with `--docs` it is written between the marks in that page, and pictures to docs/images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from benchmarks.peers import PEERS
from benchmarks.routing_tables.cells import BASELINE, KV_EVENTS, Capacities, Cell, Figures, capacity, figures, rates
from benchmarks.routing_tables.scenes import SCENES, workload
from benchmarks.routing_tables.tables import Samples, capacity_table, ratios, standing, table
from llmgate.routing import registry

ORACLE = "oracle"
ROWS = (*registry.BUILT_IN, *KV_EVENTS, *PEERS, ORACLE)
BEGIN, END = "<!-- routing-tables: begin -->", "<!-- routing-tables: end -->"
LOADS = (
    f"Loads are shares of the rate at which {BASELINE} meets the relative objective for 90 % of the requests; in a "
    "closed loop that is the rate at which sessions begin. "
)
COLOURS = "In the pictures llmgate's policies are blue, peers' rules orange, and the oracle is in ink."
STANDING = (
    "By mean TTFT: 0 % is as good as the best of the peers' rules there, 100 % as good as the oracle, below 0 % worse "
    "than the best peer; – where the oracle, which is greedy, is itself no better than the best peer."
)
CAPACITY = (
    "Requests a second at which 90 % still meet the relative objective (seed 0), and what part that is of the best "
    "peer's among these."
)
Results = Mapping[tuple[str, float], Mapping[str, Samples]]
"""(scene, load) → row → figure → by seed."""


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), default=list(SCENES))
@click.option("--load", "loads", multiple=True, type=float, default=(0.6, 0.8, 0.95), help="Of the capacity.")
@click.option("--capacity", "capacities", multiple=True, metavar="ROW", help="Find the capacity of this row, too.")
@click.option("--seeds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), default=Path.home() / ".cache/llmgate-tables")
@click.option("--docs", type=click.Path(exists=True, path_type=Path), help="The page to write the tables into.")
def main(
    scenes: Sequence[str],
    loads: Sequence[float],
    capacities: Sequence[str],
    seeds: int,
    jobs: int,
    home: Path,
    docs: Path | None,
) -> None:
    if unknown := set(capacities) - set(ROWS):
        raise click.BadParameter(f"there is no row {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    scales = {scene: capacity(scene, BASELINE, home) for scene in scenes}
    cells = [
        Cell(scene, row, load * scales[scene], seed)
        for scene in scenes
        for seed in range(seeds)
        for load in loads
        for row in ROWS
    ]
    found = figures(cells, home, jobs)
    results = {
        (scene, load): {
            row: _samples([found[Cell(scene, row, load * scales[scene], seed)] for seed in range(seeds)])
            for row in ROWS
        }
        for scene in scenes
        for load in loads
    }
    text = page(results, scales, seeds, rates(scenes, capacities, home, jobs))
    if docs is None:
        click.echo(text)
        return
    from benchmarks.routing_tables.pictures import draw

    draw(results, docs.parent / "images", PEERS, ORACLE)
    _insert(docs, text)


def _samples(runs: Sequence[Figures]) -> Samples:
    return {name: [run[name] for run in runs] for name in runs[0] if all(name in run for run in runs)}


def page(results: Results, scales: Mapping[str, float], seeds: int, capacities: Capacities) -> str:
    """The part of the page that is written by this command."""
    columns = {f"{scene} {load:.0%}": rows for (scene, load), rows in results.items()}
    parts = [
        f"{seeds} seeds; means over them, and paired 95 % intervals against {BASELINE}. " + LOADS + COLOURS,
        "### Between the best peer and the oracle",
        STANDING,
        standing(columns, PEERS, ORACLE),
        "The same by p90 of TTFT:",
        standing(columns, PEERS, ORACLE, "ttft.p90"),
        f"What the figures of {registry.DEFAULT} are of the best peer's and of {BASELINE}'s:",
        ratios(columns, PEERS, registry.DEFAULT, BASELINE, ORACLE),
    ]
    if capacities:
        parts += ["### Capacity", CAPACITY, capacity_table(capacities, PEERS)]
    for scene in dict.fromkeys(scene for scene, _ in results):
        requests, rate = workload(scene, 0).requests, _rate(scene) * scales[scene]
        parts.append(f"### {SCENES[scene].title}")
        parts.append(
            f"{len(requests):,} requests; engines `{SCENES[scene].engines}`; capacity of {BASELINE}: "
            f"{scales[scene]:.3f} × the workload's own rate, {rate:.2f} requests/s."
        )
        parts.append(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="images/routing-{scene}-dark.png">'
            f'<img alt="Mean time to first token by policy and load" src="images/routing-{scene}.png"></picture>'
        )
        for (name, load), rows in results.items():
            if name == scene:
                parts += [f"#### At {load:.0%}", table(rows, BASELINE)]
    return "\n\n".join(parts)


def _rate(scene: str) -> float:
    """Requests a second, as recorded or made."""
    requests = workload(scene, 0).requests
    return len(requests) / max(request.at for request in requests)


def _insert(docs: Path, text: str) -> None:
    page = docs.read_text()
    if BEGIN not in page or END not in page:
        raise click.ClickException(f"{docs} has no lines {BEGIN!r} and {END!r} to write between")
    docs.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
