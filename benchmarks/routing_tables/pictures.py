"""A picture of each scene: mean TTFT of every row, a mark for each load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from benchmarks.routing_tables.tables import Samples
from llmgate.reports import Looks, percentiles


def draw(results: Mapping[tuple[str, float], Mapping[str, Samples]], directory: Path, last: str) -> None:
    """`routing-SCENE.png` and `routing-SCENE-dark.png`, rows by their mean at the middle load, `last` at the end."""
    for scene in dict.fromkeys(scene for scene, _ in results):
        loads = sorted(load for name, load in results if name == scene)
        middle = results[scene, loads[len(loads) // 2]]
        order = sorted((row for row in middle if row != last), key=lambda row: -fmean(middle[row]["ttft.mean"]))
        rows = {
            row: {f"{load:.0%}": fmean(results[scene, load][row]["ttft.mean"]) for load in loads}
            for row in (*order, last)
        }
        figure = percentiles(rows, Looks(list(rows)), name=scene, title="", label="mean TTFT at shares of the capacity")
        (directory / f"routing-{scene}.png").write_bytes(figure.light)
        (directory / f"routing-{scene}-dark.png").write_bytes(figure.dark)
