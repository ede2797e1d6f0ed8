"""A picture of each scene: mean TTFT of every row, a mark for each load."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from statistics import fmean

from benchmarks.routing_tables.tables import Samples
from llmgate.reports import Looks, percentiles
from llmgate.reports.style import Theme

OWN, PEER = "llmgate", "peer"


class Kinds(Looks):
    """One colour for llmgate's policies, one for the peers, ink for the oracle."""

    def __init__(self, peers: Collection[str], oracle: str) -> None:
        super().__init__((OWN, PEER), ink=(oracle,))
        self._peers, self._oracle = peers, oracle

    def colour(self, name: str, theme: Theme) -> str:
        return super().colour(name if name == self._oracle else PEER if name in self._peers else OWN, theme)


def draw(
    results: Mapping[tuple[str, float], Mapping[str, Samples]], directory: Path, peers: Collection[str], oracle: str
) -> None:
    """`routing-SCENE.png` and `routing-SCENE-dark.png`, rows by their mean at the middle load, the oracle last."""
    for scene in dict.fromkeys(scene for scene, _ in results):
        loads = sorted(load for name, load in results if name == scene)
        middle = results[scene, loads[len(loads) // 2]]
        order = sorted((row for row in middle if row != oracle), key=lambda row: -fmean(middle[row]["ttft.mean"]))
        rows = {
            row: {f"{load:.0%}": fmean(results[scene, load][row]["ttft.mean"]) for load in loads}
            for row in (*order, oracle)
        }
        label = "mean TTFT at " + ", ".join(f"{load:.0%}" for load in loads) + " of the capacity"
        figure = percentiles(rows, Kinds(peers, oracle), name=scene, title="", label=label)
        (directory / f"routing-{scene}.png").write_bytes(figure.light)
        (directory / f"routing-{scene}-dark.png").write_bytes(figure.dark)
