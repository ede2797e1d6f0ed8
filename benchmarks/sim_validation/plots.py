"""Measured and modelled, one over the other."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.sim_validation.measurement import Timings

mpl.use("Agg")


def draw(title: str, model: Timings, measured: Timings, scored: slice, file: Path) -> None:
    """Distributions of TTFT, TPOT and E2E of the scored requests, and the gauges."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, name in zip(axes.flat, ("ttft", "tpot", "e2e"), strict=False):
        for timings, label in ((measured, "measured"), (model, "model")):
            values = np.sort(getattr(timings, name)[scored])
            axis.plot(values, np.arange(1, values.size + 1) / values.size, label=label)
        axis.set(xlabel=f"{name.upper()} (s)", ylabel="share of requests", ylim=(0, 1))
        axis.legend()
    axis = axes.flat[3]
    for name, colour in (("running", "tab:blue"), ("waiting", "tab:red")):
        axis.plot(measured.seconds, getattr(measured, name), colour, label=f"{name}, measured")
        axis.plot(model.seconds, getattr(model, name), colour, linestyle="--", label=f"{name}, model")
    axis.set(xlabel="time (s)", ylabel="requests")
    axis.legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)
